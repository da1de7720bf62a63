"""Time of commands at the small end, each in a process of its own: help, sliders, an edit, one photo, one clip.

    python benchmarks/small.py [--photo FILE] [--runs 5] [--against CHECKOUT] [--only edit clip]

The photo is the first frame of the shipped clip unless one is named. With --against every command is run in turn here
and with the code of another checkout (this one's packages). Writes benchmarks/results/small.json: of every command
`wall_s`, `cpu_s` (of its children, too) of the fastest run, and their medians. Processor time is the figure to compare
on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
from harness import CLIP, ROOT, environment, write

LIMITS_S = {"help": 0.7, "sliders": 0.7, "edit": 4.0, "preview": 4.0, "photo": 5.0, "clip": 5.0}


def commands(photo: Path, out: Path) -> dict[str, list[str]]:
    """The command lines by name; OUT must be new for each run."""
    edit = ["edit", str(photo), f"{out}.png", "--yaw", "15"]
    return {
        "help": ["--help"],
        "sliders": ["sliders"],
        "edit": edit,
        "preview": [*edit, "--checkpoint", "preview"],
        "photo": ["extract", str(photo), str(out)],
        "clip": ["extract", str(CLIP), str(out)],
    }


def run(code: Path, words: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one command with the code of a checkout."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "pipelines", *words],
        cwd=code, env={**os.environ, "PYTHONPATH": str(code)}, capture_output=True, check=True,
    )  # fmt: skip
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--only", nargs="+", choices=LIMITS_S, default=list(LIMITS_S))
    options = parser.parse_args()
    codes = {"here": ROOT} | ({"against": options.against.resolve()} if options.against else {})
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        photo = options.photo
        if photo is None:
            photo = Path(folder) / "photo.png"
            with av.open(str(CLIP)) as clip:
                next(clip.decode(video=0)).to_image().save(photo)
        for k in range(options.runs + 1):  # the first run fills the caches of code and files, and does not count
            for name in options.only:
                for of, code in codes.items():
                    words = commands(photo.resolve(), Path(folder) / f"{k}-{of}-{name}")[name]
                    times.setdefault((of, name), []).append(run(code, words))
    result: dict = {"benchmark": "small", "runs": options.runs, "limit_s": LIMITS_S}
    for (of, name), runs in times.items():
        walls, cpus = zip(*runs[1:])
        entry = {"wall_s": min(walls), "median_wall_s": statistics.median(walls)}
        entry |= {"cpu_s": min(cpus), "median_cpu_s": statistics.median(cpus)}
        result.setdefault(of, {})[name] = {key: round(value, 2) for key, value in entry.items()}
    result |= environment()
    write("small", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
