"""Compositing: feathered border, clipping at the frame, and masks."""

import numpy as np
import pytest

from rigface.face.preview.compositing import FEATHER, paste_crop


def affine(side: int, left: int, top: int) -> np.ndarray:
    scale = 512 / side
    return np.array([[scale, 0, -scale * left], [0, scale, -scale * top]], np.float32)


@pytest.mark.parametrize("size", [50, 200, 512])
def test_paste_fades_towards_the_border(size):
    image = np.full((300, 400, 3), 100, np.uint8)
    out = paste_crop(image, np.full((size, size, 3), 200, np.uint8), affine(200, 50, 60))
    assert (out[60 + 30 : 260 - 30, 50 + 30 : 250 - 30] == 200).all()
    edge = out[160, 50 : 50 + int(FEATHER * 200), 0].astype(int)
    assert (np.diff(edge) >= 0).all()
    assert edge[0] < 106
    untouched = np.ones((300, 400), bool)
    untouched[60:260, 50:250] = False
    assert (out[untouched] == 100).all()


def test_paste_beyond_the_frame_is_clipped():
    image = np.full((100, 100, 3), 10, np.uint8)
    assert (paste_crop(image, np.full((64, 64, 3), 250, np.uint8), affine(60, 80, -30))[0, 99] > 200).all()
    assert np.array_equal(paste_crop(image, np.zeros((64, 64, 3), np.uint8), affine(60, 200, 0)), image)


def test_paste_is_limited_by_a_mask():
    image = np.full((100, 100, 3), 10, np.uint8)
    where = np.zeros((64, 64), np.uint8)
    where[:, :32] = 255
    out = paste_crop(image, np.full((64, 64, 3), 250, np.uint8), affine(100, 0, 0), where)
    assert (out[50, 20] == 250).all()
    assert (out[50, 80] == 10).all()


def test_unchanged_pixels_stay_identical():
    picture = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    crop = picture[10:110, 10:110].copy()
    crop[40:60, 40:60] = 255 - crop[40:60, 40:60]
    out = paste_crop(picture, crop, affine(100, 10, 10))
    changed = (out != picture).any(-1)
    assert changed[52:68, 52:68].mean() > 0.9
    changed[50:70, 50:70] = False
    assert not changed.any()


def test_picture_without_colour_stays_without():
    grey = np.random.default_rng(0).integers(0, 256, (120, 120, 1), np.uint8).repeat(3, 2)
    out = paste_crop(grey, np.full((64, 64, 3), (250, 120, 30), np.uint8), affine(100, 10, 10))
    assert np.ptp(out, axis=2).max() == 0
    assert (out != grey).any()
