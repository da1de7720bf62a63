"""Inpainting of the background behind a person."""

import numpy as np
import pytest

from rigface.face.preview.inpainting import inpaint_background


def disc(size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    return np.where((x - size / 2) ** 2 + (y - size / 2) ** 2 < radius**2, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("size", [100, 128, 512])
def test_smooth_background_continues_behind_the_person(size):
    x = np.linspace(60, 180, size)
    wall = np.repeat(np.repeat(x[None, :, None], size, 0), 3, 2).astype(np.uint8)
    mask = disc(size, 0.25 * size)
    picture = np.where(mask[..., None] > 0, 255, wall).astype(np.uint8)
    filled, hole = inpaint_background(picture, mask)
    assert np.abs(filled.astype(int) - wall)[mask > 0].mean() < 8
    assert filled[mask > 0].max() < 200  # nothing of the person
    assert (hole[mask > 0] > 250).mean() > 0.95


def test_hole_is_slightly_larger_than_the_person():
    mask = disc(256, 60)
    _, hole = inpaint_background(np.zeros((256, 256, 3), np.uint8), mask)
    assert 1.0 < (hole > 127).sum() / (mask > 0).sum() < 1.25
    assert not hole[disc(256, 80) == 0].any()


def test_empty_and_full_masks_are_accepted():
    picture = np.full((64, 64, 3), 90, np.uint8)
    assert not inpaint_background(picture, np.zeros((64, 64), np.uint8))[1].any()
    filled, hole = inpaint_background(picture, np.full((64, 64), 255, np.uint8))
    assert filled.shape == picture.shape
    assert hole.min() == 255
