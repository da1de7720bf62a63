"""Time of `POST /v1/preview` of a photograph by its content hash, over HTTP through Ray Serve, by phase.

    python benchmarks/serve_preview.py [--photo FILE] [--rounds 40]

Writes benchmarks/results/serve_preview.json. The service runs in processes of its own, the client here, one request
after the other, each with another edit of pose, expression and light. The photograph is the first frame of
tests/fixtures/clip.mp4, enlarged to each width; the face of it is a quarter of the width. `cropped` is the same face
filling the picture, the dearest there is. Phases are the service's own `Server-Timing`; `rest` is what the client
waited beyond it: HTTP, Ray Serve, the hash.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import harness
import httpx
import numpy as np

from rigface.image import decode, encode_jpeg
from rigface.video.decode import read_frames
from serve.local import serving

LIMIT_MS = 150.0
SIDES = (704, 1024)  # what the editor page asks for on a laptop, and the default of the API


def pictures(photo: Path | None) -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8."""
    if photo is not None:
        return {photo.stem: decode(photo.read_bytes())}
    frame = next(read_frames(str(harness.CLIP))).image
    sized = {f"{width} px": _wide(frame, width) for width in (1024, 1920, 2560)}
    return {**sized, "cropped": _wide(frame[60:320, 170:420], 1280)}


def _wide(image: np.ndarray, width: int) -> np.ndarray:
    return cv2.resize(image, (width, round(width * image.shape[0] / image.shape[1])), interpolation=cv2.INTER_CUBIC)


def measure(client: httpx.Client, image: np.ndarray, side: int, rounds: int) -> dict[str, float]:
    """Milliseconds as the client sees them, and by phase."""
    sent = client.post("/v1/reconstruct", files={"picture": ("a.jpg", encode_jpeg(image, 92))}).raise_for_status()
    name = sent.json()["picture"]
    waited: list[float] = []
    phases: dict[str, list[float]] = {}
    for turn in range(rounds + 5):
        edit = {"yaw_deg": 5 + turn % 17, "expression": {"smile": 0.5}, "light": {"azimuth_deg": turn % 60}}
        began = time.perf_counter()
        answer = client.post("/v1/preview", json={"picture": {"id": name}, "edit": edit, "max_side": side})
        took = 1e3 * (time.perf_counter() - began)
        answer.raise_for_status()
        if turn < 5:
            continue  # warming
        waited.append(took)
        parts = dict(part.strip().split(";dur=") for part in answer.headers["Server-Timing"].split(","))
        inside = {phase: float(value) for phase, value in parts.items()}
        for phase, value in {**inside, "rest": took - inside["total"]}.items():
            phases.setdefault(phase, []).append(value)
    p50, p95 = np.percentile(waited, [50, 95])
    return {"p50_ms": round(p50, 1), "p95_ms": round(p95, 1)} | {
        f"{phase}_ms": round(statistics.median(values), 1) for phase, values in phases.items()
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    results: dict[str, object] = {
        "benchmark": "serve_preview", "limit_ms": LIMIT_MS, "load_before": os.getloadavg()[0],
        **harness.environment(),
    }  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(port=port, signing_folder=folder) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for name, image in pictures(options.photo).items():
            for side in SIDES:
                found = measure(client, image, side, options.rounds)
                results[f"{name}, max_side {side}"] = found
                print(f"{name:>10}, max_side {side:4}  " + "  ".join(f"{k} {v}" for k, v in found.items()), flush=True)
    harness.write("serve_preview", results)


if __name__ == "__main__":
    main()
