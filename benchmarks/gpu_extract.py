"""MediaPipe's landmarker in torch: whether it agrees with MediaPipe's own, and frames a second of `detect_faces`.

    python benchmarks/gpu_extract.py agree FILES... [--frames 500] [--device cuda]
    python benchmarks/gpu_extract.py speed [--device cuda]          under five minutes on one GPU

FILES are pictures, videos (`--frames` in all, evenly spread) and folders of them. `agree` compares the faces of both:
the largest distance of a landmark in px of the 512 px crop, the largest difference of an expression score, and files
whose counts of faces differ. Writes benchmarks/results/landmarker.json.

`speed` times the networks alone, in batches of 1 to 64 faces. Then it decodes the shipped clip and finds, tracks and
cuts its faces, as an actor of `rigface extract` does: with MediaPipe's library on one core, and with the networks on
the device, by 1, 2, 4 and 8 actors that share it. `--detect-faces.gpus` is 1 over the number from which the frames a
second do not grow. Writes benchmarks/results/gpu_extract.json.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import CLIP, environment, write
from PIL import Image, ImageOps

from rigface.face.detection.factory import load_detector
from rigface.face.geometry import alignment
from rigface.types import CROP_PX, Detection
from rigface.video.decode import probe_video, read_frames

PICTURES, VIDEOS = {".jpg", ".jpeg", ".png", ".webp"}, {".mp4", ".webm", ".mov", ".mkv"}
BATCHES = (1, 8, 32, 64)
ROUND_S = 12  # of one number of actors


def agree(named: list[str], frames: int, device: str) -> dict[str, Any]:
    """Compare both on every picture."""
    library, networks = load_detector(), load_detector(device=device)
    px, z, scores, certainty, missed = [], [], [], [], []
    for name, picture in pictures(named, frames):
        expected, found = (detector(picture, second_look=False) for detector in (library, networks))
        if len(expected) != len(found):
            missed.append(name)
            continue
        for theirs, ours in zip(expected, found):
            apart = np.abs(ours.landmarks - theirs.landmarks) * scale_of(theirs)
            px.append(float(np.hypot(apart[:, 0], apart[:, 1]).max()))
            z.append(float(apart[:, 2].max()))
            scores.append(float(np.abs(ours.blendshapes - theirs.blendshapes).max()))
            certainty.append(abs(ours.score - theirs.score))
    out: dict[str, Any] = {"faces": len(px), "files_with_other_counts": missed}
    for name, values in {"px": px, "z_px": z, "scores": scores, "detector_score": certainty}.items():
        out[name] = dict(zip(("median", "p99", "max"), np.quantile(values, (0.5, 0.99, 1)).round(5).tolist()))
    out["over_the_goal"] = sum(p > 0.5 or d > 0.5 or s > 0.01 for p, d, s in zip(px, z, scores))
    return out


def scale_of(face: Detection) -> float:
    """Px of its crop for a px of the picture."""
    return float(np.linalg.norm(alignment.frame_to_crop(face.box, CROP_PX)[0, :2]))


def pictures(named: list[str], frames: int) -> Iterator[tuple[str, np.ndarray]]:
    """All pictures, and so many frames of the videos together."""
    files = [f for n in named for f in (sorted(Path(n).rglob("*")) if Path(n).is_dir() else [Path(n)])]
    for file in files:
        if file.suffix.lower() in PICTURES:
            yield file.name, np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    for k, file in enumerate(videos):
        count = frames * (k + 1) // len(videos) - frames * k // len(videos)
        for frame in spread(file, count):
            yield f"{file.name} {frame.index}", frame.image


def spread(file: Path, count: int) -> Iterator[Any]:
    """So many frames, at one rate."""
    rate = count / max(probe_video(str(file)).duration_s, 0.1)
    for number, frame in enumerate(read_frames(str(file), rate)):
        if number < count:
            yield frame


def networks_alone(device: str) -> dict[str, dict[str, float]]:
    """Milliseconds a frame with one face, its squares cut on the CPU, by size of the batch: in all, and of the CPU.

    Without a device: MediaPipe's library.
    """
    detector = load_detector(device=device)
    picture = next(iter(read_frames(str(CLIP), None))).image
    out = {}
    for size in BATCHES:
        batch = [picture] * size
        detector.prepare(batch)
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < 3:
            detector.prepare(batch)
            count += size
        spent = time.perf_counter() - began, time.process_time() - cpu
        out[str(size)] = {"ms": 1e3 * spent[0] / count, "cpu_ms": 1e3 * spent[1] / count}
    return out


def actors(count: int, device: str) -> float:
    """Frames a second of so many processes together."""
    context = multiprocessing.get_context("spawn")
    ready, counts = context.Barrier(count + 1), context.Queue()
    running = [context.Process(target=actor, args=(device, ready, counts)) for _ in range(count)]
    for process in running:
        process.start()
    ready.wait(300)
    done = [counts.get(timeout=10 * ROUND_S) for _ in running]
    for process in running:
        process.join()
    return sum(frames / seconds for frames, seconds in done)


def actor(device: str, ready: Barrier, counts: Any) -> None:
    """One process: (frames, seconds) of whole passes over the clip."""
    from pipelines.extract.config import Settings
    from pipelines.extract.frame_processor import FrameProcessor
    from pipelines.extract.plan import units_of, with_shards
    from pipelines.extract.survey import Surveyor

    torch.set_num_threads(1)
    settings = Settings(fps="all")
    plan = Surveyor(settings)(str(CLIP), lambda step: None)
    (unit,) = units_of(*with_shards([plan], "config", 1), "config")
    process, frames = FrameProcessor(settings, device), 0
    process(unit, lambda step: None)
    ready.wait()
    began = time.perf_counter()
    while time.perf_counter() - began < ROUND_S:
        frames += process(unit, lambda step: None)[0].frames
    counts.put((frames, time.perf_counter() - began))


def speed(device: str) -> dict[str, Any]:
    """All figures."""
    out: dict[str, Any] = {"frame": networks_alone(device), "frame_by_library": networks_alone("")}
    out["library_fps_per_core"] = actors(1, "cpu")
    out["fps"] = {}
    most = min(8, os.cpu_count() or 1)
    for count in (k for k in (1, 2, 4, 8) if k <= most):
        out["fps"][str(count)] = actors(count, device)
        print(json.dumps(out, default=float), flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("agree", "speed"))
    parser.add_argument("files", nargs="*")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "agree":
        name, result = "landmarker", agree(options.files or [str(CLIP)], options.frames, options.device)
    else:
        name, result = "gpu_extract", speed(options.device)
    if options.device.startswith("cuda"):
        result["gpu"] = torch.cuda.get_device_name()
    result |= {"device": options.device, **environment()}
    write(name, result)
    print(json.dumps(result, indent=1, default=float))


if __name__ == "__main__":
    main()
