"""Speed of the CPU rasteriser, relative to PyTorch3D's on one head-sized mesh: 14,000 triangles at 512 px, one core.

    python benchmarks/raster.py [--rounds 20]

Writes one line of JSON to benchmarks/results/raster.json. PyTorch3D takes about 25 s here and is run once. Both are
timed in processor seconds of one thread, so that a busy machine does not count; ours is the median of the rounds.
"""

import argparse
import os
import time
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

import harness
import numpy as np
import torch

from rigface.face.rendering.rasterizer import rasterize, rasterize_pytorch3d

SIZE, AROUND, DOWN = 512, 100, 71


def ellipsoid() -> tuple[torch.Tensor, torch.Tensor]:
    """A closed surface of 14,000 triangles that covers about 45 % of the picture, as a head does in its crop."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, AROUND, endpoint=False), np.linspace(0.01, np.pi - 0.01, DOWN))
    points = np.stack([0.8 * np.cos(u) * np.sin(v), np.cos(v), np.sin(u) * np.sin(v)], -1).reshape(-1, 3)
    index = np.arange(DOWN * AROUND).reshape(DOWN, AROUND)
    a, b = index[:-1], index[1:]
    beside_a, beside_b = np.roll(a, -1, 1), np.roll(b, -1, 1)
    faces = np.stack([a, beside_a, b, beside_a, beside_b, b], -1).reshape(-1, 3)
    in_px = points * 0.42 * SIZE + [SIZE / 2, SIZE / 2, 0]
    return torch.tensor(in_px, dtype=torch.float32)[None], torch.tensor(faces)


def seconds(draw) -> float:
    start = time.process_time()
    draw()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    points, faces = ellipsoid()
    first = seconds(lambda: rasterize(points, faces, SIZE))
    ours = [seconds(lambda: rasterize(points, faces, SIZE)) for _ in range(rounds)]
    start = time.process_time()
    reference = rasterize_pytorch3d(points, faces, (SIZE, SIZE))
    theirs = time.process_time() - start
    fragments = rasterize(points, faces, SIZE)
    result = {
        "benchmark": "raster",
        "triangles": len(faces),
        "size_px": SIZE,
        "drawn_px": int((fragments.face >= 0).sum()),
        "ours_ms": round(1000 * median(ours), 2),
        "ours_best_ms": round(1000 * min(ours), 2),
        "ours_first_call_s": round(first, 2),
        "pytorch3d_s": round(theirs, 2),
        "ratio": round(theirs / median(ours)),
        "pixels_that_differ": int((fragments.face != reference.face).sum()),
        **harness.environment(),
        "torch": torch.__version__,
    }
    harness.write("raster", result)
    print(
        f"ours {result['ours_ms']} ms, PyTorch3D {result['pytorch3d_s']} s: {result['ratio']} times as fast on one core"
    )
    print(f"{result['pixels_that_differ']} of {SIZE * SIZE} pixels show another triangle")


if __name__ == "__main__":
    main()
