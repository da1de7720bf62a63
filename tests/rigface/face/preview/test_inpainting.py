"""Inpainting of the background behind a person."""

import numpy as np
import pytest

from rigface.face.preview import inpainting
from rigface.face.preview.inpainting import inpaint_background


def disc(size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    return np.where((x - size / 2) ** 2 + (y - size / 2) ** 2 < radius**2, 255, 0).astype(np.uint8)


def before(wall: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A white person before a wall (S, S, 3) uint8."""
    return np.where(mask[..., None] > 0, 255, wall).astype(np.uint8)


@pytest.mark.parametrize("size", [100, 128, 512])
def test_smooth_background_continues_behind_the_person(size):
    x = np.linspace(60, 180, size)
    wall = np.repeat(np.repeat(x[None, :, None], size, 0), 3, 2).astype(np.uint8)
    mask = disc(size, 0.25 * size)
    filled, hole, _ = inpaint_background(before(wall, mask), mask)
    assert np.abs(filled.astype(int) - wall)[mask > 0].mean() < 8
    assert filled[mask > 0].max() < 200  # nothing of the person
    assert (hole[mask > 0] > 250).mean() > 0.95


def test_stripes_continue_into_the_rim():
    """A wall of boards, 16 px wide: averages alone would fill it with grey."""
    size = 256
    boards = np.where(np.arange(size) // 16 % 2, 60, 180)[:, None, None]
    wall = np.broadcast_to(boards, (size, size, 3)).astype(np.uint8)
    mask = disc(size, 70)
    filled, *_ = inpaint_background(before(wall, mask), mask)
    rim = (mask > 0) & (disc(size, 52) == 0)
    wrong = np.abs(filled.astype(int) - wall).mean(2)[rim]
    assert np.median(wrong) < 5
    assert wrong.mean() < 25  # grey would be off by 60


def test_noise_of_the_wall_continues_into_the_rim():
    wall = np.random.default_rng(0).normal(120, 20, (128, 128, 1)).clip(0, 255).repeat(3, 2).astype(np.uint8)
    mask = disc(128, 36)
    filled, *_ = inpaint_background(before(wall, mask), mask)
    rim = (mask > 0) & (disc(128, 26) == 0)
    assert filled[rim].std() > 0.6 * wall.std()
    assert abs(filled[rim].mean() - 120) < 6


@pytest.mark.parametrize(("reach", "limit"), [(100, 5), (88, 33)])  # the hole ends at 80: a broad and a narrow shade
def test_wall_in_the_shade_of_a_person_gets_no_halo_from_the_lit_wall(monkeypatch, reach, limit):
    size = 256
    noise = np.random.default_rng(0).normal(0, 3, (size, size, 1))
    shade = np.where(disc(size, reach) > 0, 90, 200)[..., None]
    mask = disc(size, 70)
    picture = before((shade + noise).clip(0, 255).repeat(3, 2), mask)
    monkeypatch.setattr(inpainting, "fill_by_patches", lambda picture, *_: np.full_like(picture, 200))
    filled, *_ = inpaint_background(picture, mask)
    rim = (mask > 0) & (disc(size, 56) == 0)
    assert np.abs(filled[rim].astype(int) - 90).mean() < limit


def test_same_photograph_is_filled_once_and_alike(monkeypatch):
    calls = []
    real = inpainting._inpainted
    monkeypatch.setattr(inpainting, "_inpainted", lambda *arrays: calls.append(1) or real(*arrays))
    wall = np.random.default_rng(1).integers(0, 255, (128, 128, 3), np.uint8)
    mask = disc(128, 30)
    first, second = (inpaint_background(wall.copy(), mask.copy()) for _ in range(2))
    assert len(calls) == 1
    assert first[0] is second[0]
    assert (real(wall, mask)[0] == first[0]).all()  # no chance in it
    changed = wall.copy()
    changed[0, 0, 0] ^= 1
    inpaint_background(changed, mask)
    assert len(calls) == 2


def test_hole_is_slightly_larger_than_the_person():
    mask = disc(256, 60)
    _, hole, _ = inpaint_background(np.zeros((256, 256, 3), np.uint8), mask)
    assert 1.0 < (hole > 127).sum() / (mask > 0).sum() < 1.3
    assert not hole[disc(256, 80) == 0].any()


def test_empty_and_full_masks_are_accepted():
    picture = np.full((64, 64, 3), 90, np.uint8)
    assert not inpaint_background(picture, np.zeros((64, 64), np.uint8))[1].any()
    filled, hole, _ = inpaint_background(picture, np.full((64, 64), 255, np.uint8))
    assert filled.shape == picture.shape
    assert hole.min() == 255
