"""Decoding for sparse samples, relative to decoding every frame, on clips with usual distances of key frames.

    python benchmarks/keyframes.py CLIP...          some minutes of one core

Each clip is encoded again as H.264 (libx264, preset medium) with a key frame every 250 frames at most, x264's default,
and every two seconds, usual for streaming. Samples at 5, 1 and 0.5 frames a second are read both ways, and must be the
same frames with the same times, pixel for pixel. Processor seconds of this process, the better of two. Writes
benchmarks/results/keyframes.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import av
import harness
import numpy as np

from rigface.types import Frame
from rigface.video import decode

RATES = (5.0, 1.0, 0.5)
DISTANCES = {"250 frames": lambda fps: 250, "2 s": lambda fps: round(2 * fps)}


def encoded(clip: Path, distance: str, out: Path) -> None:
    """The clip as H.264 with a key frame at most so often."""
    with av.open(str(clip)) as source, av.open(str(out), "w") as target:
        given = source.streams.video[0]
        rate = given.average_rate
        stream = target.add_stream("libx264", rate=rate, options={"g": str(DISTANCES[distance](float(rate)))})
        stream.width, stream.height, stream.pix_fmt = given.width, given.height, "yuv420p"
        for number, frame in enumerate(source.decode(given)):
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, 1 / rate
            target.mux(stream.encode(frame))
        target.mux(stream.encode())


def read(file: Path, fps: float) -> tuple[list[Frame], float]:
    """Samples and the processor seconds that they take, the better of two."""
    best = float("inf")
    for _ in range(2):
        began = time.process_time()
        frames = list(decode.read_frames(str(file), fps))
        best = min(best, time.process_time() - began)
    return frames, best


def main() -> None:
    sparse, clips = decode.is_worth, [Path(name) for name in sys.argv[1:]] or [harness.CLIP]
    result: dict = {"benchmark": "keyframes", "clips": [clip.name for clip in clips]}
    seconds: dict[tuple[str, float], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for clip in clips:
            for distance in DISTANCES:
                file = Path(folder) / "clip.mp4"
                encoded(clip, distance, file)
                for fps in RATES:
                    some, few_s = read(file, fps)
                    decode.is_worth = lambda *_: False
                    every, all_s = read(file, fps)
                    decode.is_worth = sparse
                    assert [(f.index, f.time_s) for f in some] == [(f.index, f.time_s) for f in every]
                    assert all(np.array_equal(a.image, b.image) for a, b in zip(some, every))
                    seconds.setdefault((distance, fps), []).append((few_s, all_s))
    result["speed"] = {
        f"{fps:g} a second, a key frame every {distance}": {
            "ratio": sum(a for _, a in pairs) / sum(f for f, _ in pairs),
            "ratio_of_each_clip": [round(a / f, 2) for f, a in pairs],
        }
        for (distance, fps), pairs in seconds.items()
    }
    result |= harness.environment()
    harness.write("keyframes", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
