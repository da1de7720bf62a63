"""Augmentation of examples by colour and by shift, for training on few people.

Path: a batch of examples as pictures -> `augmented` -> latents (batches.py). Examples stored as latents are not
augmented.

All four pictures of an example change alike, so that the edit stays the same: white balance, exposure and tone curve of
source, background, render and target; and a shift by whole pixels, because a network on patches of pixels would
otherwise see every face on one grid. The grey hole in the background changes with them.
"""

from dataclasses import replace

import numpy as np

from rigface.types import Example

TINT, EXPOSURE, GAMMA = 0.06, 0.18, 0.15  # standard deviations of logarithms: of each colour, of all, of the tone curve
MAX_SHIFT = 0.06  # of the side


def augmented(
    example: Example, seed: tuple[int, ...], regions: np.ndarray | None = None
) -> tuple[Example, np.ndarray | None]:
    """A batch of examples (N, S, S, 3) uint8, each changed independently, and their regions (N, S, S) uint8, moved
    alike; the same seed gives the same change.
    """
    random = np.random.default_rng(seed)
    c = example.conditions
    alike = [c.reference, c.background, c.render, example.target]
    if regions is not None:
        alike.append(np.repeat(regions[..., None], 3, axis=-1))
    pictures = np.stack(alike, axis=1)  # (N, 4 or 5, S, S, 3)
    for row in range(len(pictures)):
        pictures[row] = shifted(pictures[row], random)
        pictures[row, :4] = recoloured(pictures[row, :4], random)
    reference, background, render, target, *moved = pictures.swapaxes(0, 1)
    example = Example(replace(c, reference=reference, background=background, render=render), target)
    return example, moved[0][..., 0] if moved else None


def recoloured(pictures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(..., 3) uint8 under another white balance, exposure and tone curve, the same for all of them."""
    gain = np.exp(random.normal(0, EXPOSURE) + random.normal(0, TINT, 3))
    gamma = np.exp(random.normal(0, GAMMA))
    curve = (np.arange(256) / 255)[:, None] ** gamma * gain
    table = (curve.clip(0, 1) * 255 + 0.5).astype(np.uint8)  # (256, 3)
    return np.stack([table[pictures[..., k], k] for k in range(3)], axis=-1)


def shifted(pictures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(..., S, S, 3) moved by a few whole pixels; edges are repeated into what is uncovered."""
    side = pictures.shape[-2]
    max_shift = round(MAX_SHIFT * side)
    down, right = random.integers(-max_shift, max_shift + 1, size=2)
    rows, columns = ((np.arange(side) + by).clip(0, side - 1) for by in (down, right))
    return pictures[..., rows[:, None], columns, :]
