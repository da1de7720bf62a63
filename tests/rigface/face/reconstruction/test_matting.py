"""Matte of a drawn person with soft and fine edges."""

import cv2
import numpy as np
import pytest

from rigface.face.reconstruction.matting import matte

SIZE = 256


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """A picture (256, 256, 3) of a dark disc with strands before a bright wall, and its true matte in [0, 1]."""
    alpha = np.zeros((4 * SIZE, 4 * SIZE), np.uint8)
    cv2.circle(alpha, (512, 512), 280, 255, -1)
    for angle in np.linspace(0, 2 * np.pi, 48, endpoint=False):
        end = 512 + 312 * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(alpha, (512, 512), tuple(end.astype(int).tolist()), 255, 9)
    true = cv2.resize(alpha, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    colours = true[..., None] * np.array([60, 40, 30.0]) + (1 - true[..., None]) * np.array([190, 200, 220.0])
    noise = np.random.default_rng(0).normal(0, 3, colours.shape)
    return (colours + noise).clip(0, 255).astype(np.uint8), true


def test_matte_finds_strands_that_the_coarse_mask_lacks(drawn):
    picture, true = drawn
    coarse = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(coarse, (128, 128), 73, 1, -1)
    coarse = coarse.astype(np.float32)
    found = matte(coarse, picture, SIZE) / 255
    assert np.abs(found - true).mean() < 0.5 * np.abs(coarse - true).mean()
    rim = (true > 0.2) & (true < 0.8)
    assert np.abs(found - true)[rim].mean() < 0.25
    assert (found[true == 0] < 0.02).mean() > 0.95  # no haze on the wall


def test_edge_moves_no_further_than_the_band(drawn):
    picture, _ = drawn
    small = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(small, (128, 128), 40, 1, -1)
    found = matte(small.astype(np.float32), picture, SIZE)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    away = np.hypot(rows - 128, columns - 128)
    assert not found[away > 40 + 0.05 * SIZE].any()
    assert (found[away < 40 - 0.05 * SIZE] == 255).all()


def test_matte_has_the_size_asked_for(drawn):
    picture, _ = drawn
    nobody = matte(np.zeros((SIZE, SIZE), np.float32), picture, 300)
    assert (nobody.shape, nobody.dtype, nobody.max()) == ((300, 300), np.uint8, 0)
    assert matte(np.ones((SIZE, SIZE), np.float32), picture, 100).min() == 255
