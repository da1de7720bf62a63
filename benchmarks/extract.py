"""Speed of `rigface extract`, relative to a bare loop of decode and landmarker over the same files.

    python benchmarks/extract.py CLIPS... [--times 1 4 16] [--fps all] [--name extract]

CLIPS are files or folders; without any, the shipped clip, eight times. A bare loop is PyAV and MediaPipe's landmarker
in one process and nothing else; its clock starts when its models are loaded. It is run alone, and twice at once on
halves of the files, so that it has both cores, as the job has. The job runs for every number of `--times` copies of the
files (under other names). Writes benchmarks/results/extract.json:

* of every size of the job: `wall_s`, `peak_memory_mb` of all its processes, `spilled_bytes` as Ray counts them.
* `ms_per_further_frame`: how much longer the next size takes, over the frames it has more. Each is a measurement of its
  own; flat is when they agree.
* `fps`: the same from the smallest size to the largest, so that the start of Ray and of the actors drops out.
  `start_s`: what that leaves of the smallest size.
* `ratio_one_loop`: `fps` over the one loop alone, to which `limit_ratio` applies; `ratio_two_loops`: over the two at
  once. `..._with_start`: of the largest size, start included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import CLIP, ROOT, environment, write

BARE = """
import sys, time, os
import av, numpy as np, mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision
from rigface import assets
options = vision.FaceLandmarkerOptions(
    base_options=BaseOptions(model_asset_path=str(assets.find("face_landmarker"))),
    output_face_blendshapes=True, output_facial_transformation_matrixes=True, num_faces=5)
count = 0
with vision.FaceLandmarker.create_from_options(options) as landmarker:
    warm = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.zeros((64, 64, 3), np.uint8))
    landmarker.detect(warm)
    start = time.time()
    for path in sys.argv[1:]:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "NONE"
            for frame in container.decode(video=0):
                image = frame.to_ndarray(format="rgb24", threads=1)
                landmarker.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(image)))
                count += 1
print(count, start, time.time())
"""


def bare(files: list[Path], processes: int) -> dict[str, float]:
    """Frames per second of decode + landmarker, from the first frame of any process to the last."""
    shares = [[str(f) for f in files[k::processes]] for k in range(processes)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BARE, *share], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for share in shares
        if share
    ]
    outputs = [process.communicate()[0].split() for process in running]
    frames = sum(int(s[0]) for s in outputs)
    wall = max(float(s[2]) for s in outputs) - min(float(s[1]) for s in outputs)
    return {"processes": len(running), "frames": frames, "fps": frames / wall}


class Memory(threading.Thread):
    """Peak of the resident memory of this process and everything below it, shared pages counted once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mb, self._on = 0.0, True

    def run(self) -> None:
        import psutil

        me = psutil.Process()
        while self._on:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += int(Path(f"/proc/{process.pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
                except (OSError, IndexError, psutil.Error):
                    continue
            self.peak_mb = max(self.peak_mb, total / 1024)
            time.sleep(0.5)

    def stop(self) -> float:
        self._on = False
        return self.peak_mb


def job(files: list[Path], fps: str) -> dict[str, float]:
    """One run of the job in a process of its own."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from benchmarks.extract import run; run(sys.argv[2:])"
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder) / "clips"
        linked.mkdir()
        for k, file in enumerate(files):
            shutil.copy(file, linked / f"{k:05d}{file.suffix}")
        done = subprocess.run(
            [sys.executable, "-c", code, str(ROOT), str(linked), f"{folder}/out", fps],
            capture_output=True, text=True, cwd=ROOT, check=False, env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return json.loads(done.stdout.splitlines()[-1])


def run(arguments: list[str]) -> None:
    """The body of the job's process: print one line of JSON."""
    from dataclasses import replace

    import ray

    from pipelines.extract.config import Settings, laptop
    from pipelines.extract.job import extract

    videos, out, fps = arguments
    memory = Memory()
    memory.start()
    settings = Settings(fps="all" if fps == "all" else float(fps))
    config = replace(laptop(), videos=(videos,), out=out, settings=settings, in_process="never")
    first: list[float] = []
    began = time.time()
    ray.init(
        address="local", num_cpus=max(int(config.cpus + 0.999), os.cpu_count() or 1), include_dashboard=False,
        log_to_driver=False, object_store_memory=config.object_store_mb * 2**20,
    )  # fmt: skip
    summary = extract(config, on_unit=lambda _: first.append(time.time()))
    ended = time.time()
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    stored = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
    frames = summary.done["frames"]
    print(
        json.dumps(
            {
                "frames": frames, "faces": summary.done["faces"], "units": summary.done["units"],
                "first_unit_s": first[0] - began, "wall_s": ended - began, "fps_with_start": frames / (ended - began),
                "stage_ms_per_frame": {k: round(1e3 * v / frames, 3) for k, v in summary.seconds.items()},
                "peak_memory_mb": memory.stop(), "spilled_bytes": int(stored.spilled_bytes_total),
            }
        )
    )  # fmt: skip


def files_of(named: list[str], copies: int) -> list[Path]:
    paths = [p for name in named for p in (sorted(Path(name).iterdir()) if Path(name).is_dir() else [Path(name)])]
    return paths or [CLIP] * copies


def compared(result: dict, times: list[int]) -> dict:
    """Ratios and costs from the runs: `x1`, `x4` ... and the bare loops of `result`."""
    runs = {f"x{k}": result[f"x{k}"] for k in sorted(times)}
    small, large = (list(runs.values())[k] for k in (0, -1))
    fps = 1e3 / _further(small, large)
    return {
        "ms_per_further_frame": {f"{a} to {b}": _further(runs[a], runs[b]) for a, b in itertools.pairwise(runs)},
        "fps": fps,
        "start_s": small["wall_s"] - small["frames"] / fps,
        "limit_ratio": 0.6,
        "limit_ratio_is_of": "ratio_one_loop",
        "ratio_one_loop": fps / result["bare_one_process_fps"],
        "ratio_one_loop_with_start": large["fps_with_start"] / result["bare_one_process_fps"],
        "ratio_two_loops": fps / result["bare_fps"],
        "ratio_two_loops_with_start": large["fps_with_start"] / result["bare_fps"],
    }


def _further(small: dict, large: dict) -> float:
    return 1e3 * (large["wall_s"] - small["wall_s"]) / (large["frames"] - small["frames"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--fps", default="all")
    parser.add_argument("--copies", type=int, default=8, help="of the shipped clip, where no clips are named")
    parser.add_argument("--name", default="extract", help="of the result: benchmarks/results/NAME.json")
    options = parser.parse_args()
    files = files_of(options.clips, options.copies)
    result: dict = {"benchmark": "extract", "files": [f.name for f in files]}
    before = bare(files, 2)
    for times in options.times:
        result[f"x{times}"] = job(files * times, options.fps)
        print(f"x{times}:", json.dumps(result[f"x{times}"]), flush=True)
    after = bare(files, 2)
    one = bare(files, 1)
    result["bare_fps"] = (before["fps"] + after["fps"]) / 2
    result["bare_fps_runs"] = [before["fps"], after["fps"]]
    result["bare_one_process_fps"] = one["fps"]
    result |= compared(result, options.times)
    result |= environment()
    write(options.name, result)
    print(json.dumps(result, indent=1, default=float))


if __name__ == "__main__":
    main()
