"""Memory and time of the driver of `extract`, with fake films and clips that nobody opens: planning and counting alone.

    python benchmarks/driver.py                       a group of films, a window of clips; three minutes
    python benchmarks/driver.py films 100000          one case, to its end; so many films or clips

A film is two hours at five frames a second, 120 units of 300 frames; a clip is ten frames. Inputs are listed, surveyed
by a fake, bundled, planned, stored and counted as done, in a process of its own for each case. The cases are as large
as what the driver holds at once (`planning.WINDOW`, `GROUP_UNITS`); beyond, only the sets of names grow. Writes
benchmarks/results/driver.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness

CASES = (("films", 1000), ("films", 2000), ("clips", 20_000), ("clips", 100_000))
UNITS = {"films": 120, "clips": 1}
FRAMES = {"films": 300, "clips": 10}


def run(kind: str, count: int) -> dict[str, Any]:
    """One case, in this process."""
    from rich.console import Console

    from pipelines.extract import components, in_process, job, planning
    from pipelines.extract.config import debug
    from pipelines.extract.dataset import FaceDataset
    from pipelines.extract.plan import Plan
    from pipelines.extract.progress import Progress
    from pipelines.extract.unit import Record
    from pipelines.inputs import sources
    from pipelines.inputs.compact_set import CompactSet
    from rigface.testing import fakes
    from rigface.video.decode import Chunk

    frames, units = FRAMES[kind], UNITS[kind]
    chunks = tuple(Chunk(k, frames * k, frames * (k + 1), 60.0 * k, 1500 * k, 90_000 * k, 0) for k in range(units))
    seen, shards = CompactSet(), [0]

    def listed(*_: Any) -> Any:
        for k in range(count):
            uri = f"s3://bucket/{kind}/{k % 256:02x}/{k:012}.mp4"
            seen.add(uri)  # as the real listing does
            yield uri

    def survey(uris: list[str], *_: Any) -> list[Plan]:
        plan = Plan("", "1 2", "video", bytes=1, sha256="0" * 64, rate=5.0, expected=(frames,) * units)
        return [replace(plan, uri=uri, chunks=tuple(replace(chunk) for chunk in chunks)) for uri in uris]

    def run_shards(config: Any, head: Any, detector: Any, work: Any, say: Any) -> Any:
        shards[0] += len(work)
        yield from ([Record.of(unit) for unit in of_shard] for of_shard in work)

    components.specs = lambda settings: (fakes.HEAD, fakes.DETECTOR)
    sources.find_all = listed
    planning.Planner._surveyed = lambda self, batches: map(survey, batches)  # not on Ray, whose store is apart
    in_process.run_shards = run_shards
    FaceDataset.records = lambda self, shard: []  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        config = replace(debug((kind,), folder), in_process="always", identities=False, shard_frames=300)
        config = replace(config, detect_faces=replace(config.detect_faces, actors=64))
        base, began = _mb(), time.process_time()
        summary = job.extract(config, Progress(Console(file=open("/dev/null", "w"))))  # noqa: SIM115 - ends with this
        assert summary.done["units"] == count * units
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "kind": kind, "inputs": count, "units": count * units, "shards": shards[0], "base_mb": base, "peak_mb": _mb(),
        "cpu_s": round(time.process_time() - began, 1), "stored_mb": round(size / 1e6, 1),
    }  # fmt: skip


def _mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
        return
    cases = []
    for kind, count in CASES:
        words = [sys.executable, __file__, kind, str(count)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        cases.append(json.loads(done.stdout.splitlines()[-1]))
        print(cases[-1], flush=True)
    harness.write("driver", {"benchmark": "driver", "cases": cases, **harness.environment()})


if __name__ == "__main__":
    main()
