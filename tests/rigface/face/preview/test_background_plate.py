"""Background of a shot, on drawn frames of a still wall."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rigface.face.preview.background_plate import BackgroundPlate
from rigface.face.preview.inpainting import fill_background

SIZE, RADIUS = 160, 24


@pytest.fixture
def wall() -> np.ndarray:
    """A wall with texture, (160, 160, 3) uint8."""
    coarse = np.random.default_rng(0).integers(60, 200, (20, 20, 3), np.uint8)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def shown(wall: np.ndarray, x: int) -> tuple[np.ndarray, SimpleNamespace]:
    """A frame with a black person at x, 80, and their face; its crop is 128 px around them, as heads are followed."""
    image = wall.copy()
    cv2.circle(image, (x, 80), RADIUS, (0, 0, 0), -1)
    mask = np.zeros((512, 512), np.uint8)
    cv2.circle(mask, (256, 256), 4 * RADIUS, 255, -1)
    to_crop = np.array([[4, 0, -4 * (x - 64)], [0, 4, -4 * 16]], np.float32)
    return image, SimpleNamespace(mask=mask, frame_to_crop=to_crop)


def at(x: int, radius: int = RADIUS) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.hypot(rows - 80, columns - x) < radius


def test_what_a_frame_has_shown_is_remembered_behind_the_person(wall):
    plate = BackgroundPlate()
    for x in (40, 60, 80, 100, 120):
        back = plate(*shown(wall, x))
    assert np.abs(back[at(120)].astype(int) - wall[at(120)]).mean() < 3  # seen before they came there
    assert np.abs(back.astype(int) - wall)[~at(40)].max() < 10


def test_guess_stays_the_same_until_it_is_uncovered(wall):
    plate = BackgroundPlate()
    first = plate(*shown(wall, 80)).copy()
    assert first[at(80)].max() > 50  # nothing of the person
    noise = np.random.default_rng(1)
    for _ in range(5):
        noisy = (wall + noise.normal(0, 3, wall.shape)).clip(0, 255).astype(np.uint8)
        back = plate(*shown(noisy, 80 + int(noise.integers(-1, 2))))
    assert (back[at(80, 20)] == first[at(80, 20)]).all()


def test_person_is_never_in_the_background(wall):
    plate = BackgroundPlate()
    for x in (80, 78, 83, 75, 90):
        assert plate(*shown(wall, x))[at(x, RADIUS + 2)].min() > 20


def test_cut_starts_anew_and_flicker_free_averages_follow_a_moving_camera(wall):
    plate = BackgroundPlate()
    plate(*shown(wall, 80))
    other = 255 - wall
    assert np.abs(plate(*shown(other, 80)).astype(int) - other)[~at(80, 40)].max() < 3
    for k in range(1, 4):
        image, face = shown(np.roll(wall, 24 * k, axis=1), 80)
        back = plate(image, face)
    hole = cv2.dilate(at(80, RADIUS + 3).astype(np.uint8) * 255, np.ones((3, 3), np.uint8))[16:144, 16:144]
    smooth = fill_background(image[16:144, 16:144], hole, has_texture=False)
    assert np.abs(back[16:144, 16:144].astype(int) - smooth)[at(80, 15)[16:144, 16:144]].mean() < 8


def test_crop_that_leaves_the_frame_is_accepted(wall):
    plate = BackgroundPlate()
    for x in (10, 150):
        assert plate(*shown(wall, x)).shape == wall.shape
