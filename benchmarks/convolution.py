"""Speed of wide convolutions over few pixels as one matrix product, relative to torch's, on one core.

    python benchmarks/convolution.py                half a minute

Layers of Stable Diffusion's UNet at 256 and 512 px, one and two rows, float32 and bfloat16; medians of interleaved
runs. A layer that gathers here but not at every size (640 channels at 16 px) shows what its channels-last weights cost
or bring. Writes benchmarks/results/convolution.json.
"""

from __future__ import annotations

import copy
import statistics
import time

import harness
import torch
from torch import nn

from rigface.model.gathered_conv import GatheredConv2d, gather

LAYERS = (
    (640, 640, 16),
    (1280, 1280, 16),
    (2560, 1280, 16),
    (1280, 1280, 8),
    (2560, 1280, 8),
    (2560, 1280, 4),
)
ROUNDS = 5


@torch.inference_mode()
def measure(channels: int, out: int, px: int, rows: int, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds of both, and how far apart they are."""
    plain = nn.Conv2d(channels, out, 3, padding=1).to(dtype)
    ours = nn.Sequential(copy.deepcopy(plain))
    gather(ours)
    assert type(ours[0]) is GatheredConv2d
    x = torch.randn(rows, channels, px, px, dtype=dtype)
    taken: dict[str, list[float]] = {"library": [], "ours": []}
    for turn in range(ROUNDS + 1):
        for name, layer in (("library", plain), ("ours", ours)):
            began = time.perf_counter()
            layer(x)
            if turn:
                taken[name].append(1e3 * (time.perf_counter() - began))
    library, own = (statistics.median(taken[name]) for name in ("library", "ours"))
    apart = (plain(x).float() - ours(x).float()).abs().max() / plain(x).float().abs().max()
    return {
        "library_ms": round(library, 1),
        "ours_ms": round(own, 1),
        "times_faster": round(library / own, 2),
        "apart": float(apart),
    }


def main() -> None:
    """Measure, print, and write the results file."""
    torch.set_num_threads(1)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        for channels, out, px in LAYERS:
            for rows in (1, 2):
                name = f"{channels} to {out}, {px} px, {rows} rows, {str(dtype).removeprefix('torch.')}"
                found[name] = measure(channels, out, px, rows, dtype)
                print(f"{name:44} {found[name]}", flush=True)
    harness.write("convolution", {**found, **harness.environment()})


if __name__ == "__main__":
    main()
