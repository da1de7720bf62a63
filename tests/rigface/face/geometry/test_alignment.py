"""Crop alignment: rule, sub-pixel accuracy and antialiasing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigface.face.geometry.alignment import CROP_PX, apply, compose, crop, frame_to_crop, invert


def ramp(height: int, width: int) -> np.ndarray:
    """A picture whose value says where it is: red grows with x, green with y."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x * 255 / width, y * 255 / height, np.zeros_like(x)], axis=-1).round().astype(np.uint8)


def blob(x: float, y: float, sigma: float, height: int = 300, width: int = 400) -> np.ndarray:
    """A soft white spot at a sub-pixel place."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat((255 * spot).round().astype(np.uint8)[..., None], 3, axis=-1)


def centre_of(image: np.ndarray) -> np.ndarray:
    weight = image[..., 0] + 1e-9
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def test_crop_square_follows_the_rule():
    affine = frame_to_crop(np.array([100, 200, 180, 300]))  # 80 x 100
    square = apply(invert(affine), np.array([[0.0, 0.0], [CROP_PX, CROP_PX]]))
    assert np.allclose(square[1] - square[0], 190)  # 1.9 of the larger side
    assert np.allclose(square.mean(0), [140, 250 - 10])  # the middle, raised by a tenth of it


@settings(deadline=None)
@given(st.floats(0, 4000), st.floats(0, 4000), st.floats(2, 3000), st.floats(2, 3000))
def test_crop_square_lies_on_whole_pixels(x, y, width, height):
    box = np.array([x, y, x + width, y + height])
    square = apply(invert(frame_to_crop(box).astype(np.float64)), np.array([[0.0, 0.0], [CROP_PX, CROP_PX]]))
    larger = max(box[2] - box[0], box[3] - box[1])
    assert np.abs(square - np.rint(square)).max() < 0.02
    assert np.allclose(square[1] - square[0], 1.9 * larger, atol=0.51 + 0.003 * larger)
    assert np.abs(square.mean(0) - [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2 - 0.1 * larger]).max() < 0.52


def test_wide_box_fits_into_the_crop():
    box = np.array([0.0, 0.0, 300.0, 100.0])
    inside = apply(frame_to_crop(box), box.reshape(2, 2))
    assert (inside > 0).all()
    assert (inside < CROP_PX).all()


@pytest.mark.parametrize("box", [[0, 0, 0, 10], [5, 5, 4, 9], [0, 0, np.nan, 1], [0, 0, np.inf, 1]])
def test_empty_box_is_refused(box):
    with pytest.raises(ValueError, match="x0 < x1"):
        frame_to_crop(np.array(box, np.float32))


def test_identity_affine_changes_no_pixel():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert (crop(image, np.eye(2, 3, dtype=np.float32), 64) == image).all()


def test_integer_shift_moves_pixels_and_repeats_the_border():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    moved = crop(image, np.array([[1, 0, 7], [0, 1, -3]], np.float32), 40)
    assert (moved[:37, 7:] == image[3:, :33]).all()
    assert (moved[:37, :7] == image[3:, :1]).all()
    assert (moved[37:, 7:] == image[-1:, :33]).all()


@settings(deadline=None)
@given(
    scale=st.floats(0.15, 4.0),
    x=st.floats(150, 250),
    y=st.floats(120, 180),
    turn=st.floats(-0.5, 0.5),
)
def test_spot_lands_at_its_affine_position(scale, x, y, turn):
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    affine = np.array([[c, -s, 0], [s, c, 0]])
    affine[:, 2] = 128 - affine[:, :2] @ (200, 150)
    sigma = 4 / min(scale, 1)
    landed = centre_of(crop(blob(x, y, min(sigma, 20)), affine.astype(np.float32), 256))
    expected = apply(affine, np.array([x, y]))
    if np.all(np.abs(expected - 128) < 128 - 4 * sigma * scale):  # the spot is wholly inside
        assert np.abs(landed - expected).max() < 0.06


@pytest.mark.parametrize("start", [0, 0.3], ids=["on whole pixels", "between them"])
@pytest.mark.parametrize("side", [800, 1000, 1600])
def test_shrinking_is_antialiased(side, start):
    checks = ((np.indices((1700, 1700)).sum(0) % 2) * 255).astype(np.uint8)  # a pixel-sized chessboard
    scale = CROP_PX / side
    small = crop(checks, np.array([[scale, 0, -scale * start], [0, scale, -scale * start]], np.float32))[4:-4, 4:-4]
    assert abs(small.mean() - 127.5) < 1.5
    assert small.std() < 2  # picked pixels would have 127


@settings(deadline=None)
@given(st.integers(-60, 60), st.integers(-60, 60), st.integers(3, 40))
def test_slice_and_warp_agree(x, y, side):
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    scale = 64 / side
    straight = np.array([[scale, 0, -scale * x], [0, scale, -scale * y]])
    skewed = np.array([[scale, 1e-9, -scale * x], [0, scale, -scale * y]])  # no longer straight, so it is warped
    inside = slice(int(scale / 2) + 1, -int(scale / 2) - 1)  # the quick way does not look half a pixel past its edge
    difference = crop(image, straight, 64).astype(int) - crop(image, skewed, 64)
    assert np.abs(difference[inside, inside]).max() <= 5  # OpenCV warps in steps of 1/32 px


def test_shrinking_by_any_factor_keeps_positions():
    image = ramp(1300, 1700)
    for box in ([300, 200, 900, 1000], [-200, -300, 500, 600], [1500, 1000, 1900, 1500]):
        affine = frame_to_crop(np.array(box, np.float32))
        got = crop(image, affine).astype(np.float64)
        y, x = np.mgrid[:CROP_PX, :CROP_PX] + 0.5
        frame = apply(invert(affine.astype(np.float64)), np.stack([x, y], -1))
        red = np.clip(frame[..., 0], 0.5, 1699.5) * 255 / 1700
        green = np.clip(frame[..., 1], 0.5, 1299.5) * 255 / 1300
        assert np.abs(got[..., 0] - red).max() < 1.2
        assert np.abs(got[..., 1] - green).max() < 1.2


def test_crop_outside_the_frame_repeats_its_corner():
    image = ramp(100, 100)
    far = crop(image, np.array([[0.2, 0, 1000], [0, 0.2, 1000]], np.float32), 32)
    assert (far == image[0, 0]).all()


def test_masks_can_be_cropped():
    assert crop(np.full((90, 90), 7, np.uint8), np.eye(2, 3, dtype=np.float32) * 0.5, 32).shape == (32, 32)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=4, max_size=4), st.floats(0.1, 10), st.floats(-3, 3))
def test_invert_undoes_an_affine(numbers, scale, turn):
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    affine = np.array([[c, -s, numbers[0]], [s, c, numbers[1]]])
    points = np.array([[*numbers[2:], 1.5], [0, 0, -2]])
    assert np.allclose(apply(invert(affine), apply(affine, points)), points, atol=1e-6 * (1 + 100 / scale))
    assert np.allclose(apply(compose(invert(affine), affine), points[:, :2]), points[:, :2], atol=1e-4)


def test_depth_is_scaled_and_never_shifted():
    affine = frame_to_crop(np.array([0, 0, 100, 100]))
    point = np.array([[10, 20, -5]], np.float32)
    moved = apply(affine, point)
    assert moved.dtype == np.float32
    assert np.isclose(moved[0, 2], -5 * 512 / 190)
