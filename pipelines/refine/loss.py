"""Loss and measures of a refiner: errors weighted by what the conditions decide.

Hair and background are nearly left out, because the conditions do not say how they should look; on whole crops they
hold nine tenths of the error, and a network learns to do nothing. Mouth and eyes count most.

An error of pixels alone is least for a blur wherever the truth is uncertain. So how much detail there is counts beside
where it is: the mean size of the finest Laplacian bands about a pixel has to be the truth's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.refine.batches import Batch
from rigface.refiner.network import Correction
from rigface.refiner.regions import REGIONS

WEIGHTS = {"outside": 0.05, "rim": 1.0, "face": 2.0, "eyes": 6.0, "mouth": 8.0}
SMALL = 0.01  # below this, of a range of 2, the error counts by its square
LEVELS = 3  # of the Laplacian pyramid
DETAIL = 1.0  # weight of the amount of detail, relative to the error of its band
DETAIL_LEVELS, NEIGHBOURHOOD = 2, 9  # bands whose amount counts, and px over which it is averaged
ROUGHNESS = 0.5  # weight of the squared change of the flow from pixel to pixel, half a side is 1
MIN_PIXELS = 30  # of a region, below which it is not measured


def refiner_loss(correction: Correction, batch: Batch) -> Tensor:
    """Weighted Charbonnier error of the corrected previews and of their Laplacian pyramids, a scalar."""
    weight = torch.tensor([WEIGHTS[name] for name in REGIONS], device=batch.target.device)[batch.regions][:, None]
    output, target = correction.of(batch.preview), batch.target
    loss = _error(output - target, weight)
    for level in range(LEVELS):
        coarse_output, coarse_target, coarse_weight = (F.avg_pool2d(x, 2) for x in (output, target, weight))
        bands = [x - _doubled(c) for x, c in ((output, coarse_output), (target, coarse_target))]
        loss = loss + _error(bands[0] - bands[1], weight)
        if level < DETAIL_LEVELS:
            loss = loss + DETAIL * _error(_amount(bands[0], weight) - _amount(bands[1], weight), weight)
        output, target, weight = coarse_output, coarse_target, coarse_weight
    roughness = sum(correction.flow.diff(dim=axis).square().mean() for axis in (-2, -1))
    return loss + _error(output - target, weight) + ROUGHNESS * roughness


def _amount(band: Tensor, weight: Tensor) -> Tensor:
    """(N, 3, S, S) weighted mean size of a band about each pixel."""
    means = (F.avg_pool2d(x, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2) for x in (band.abs() * weight, weight))
    return torch.div(*means)


def _error(difference: Tensor, weight: Tensor) -> Tensor:
    charbonnier = torch.sqrt(difference.square() + SMALL**2) - SMALL
    return (charbonnier * weight).sum() / (weight.sum() * difference.shape[1])


def _doubled(picture: Tensor) -> Tensor:
    return F.interpolate(picture, scale_factor=2.0, mode="bilinear")


def region_psnr(output: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
    """PSNR in dB, summed over the examples that show a region, and their number; `face` has eyes and mouth in it."""
    squares = (output.clamp(-1, 1) - batch.target).square().mean(1) / 4  # of a range of 1
    masks = {name: batch.regions == k for k, name in enumerate(REGIONS) if name in ("rim", "eyes", "mouth")}
    masks["face"] = batch.regions >= REGIONS.index("face")
    measured = {}
    for name, mask in masks.items():
        count = mask.sum((1, 2))
        error = (squares * mask).sum((1, 2)) / count.clamp_min(1)
        shown = count >= MIN_PIXELS
        measured[name] = (float((-10 * error.clamp_min(1e-6).log10())[shown].sum()), int(shown.sum()))
    return measured
