"""The watermark survives re-encoding, scaling, cropping and shifts, and cannot be copied to another image."""

import cv2
import numpy as np
import pytest

from rigface.image import decode, encode_jpeg
from rigface.provenance import watermark

BITS = 0xC0FFEE11
SECRET = b"secret"


def scene(seed: int, side: int = 448) -> np.ndarray:
    """An image of soft shapes with grain; no two seeds have them at the same places."""
    random = np.random.default_rng(seed)
    shapes = cv2.resize(random.normal(0, 60, (side // 14, side // 16, 3)).astype(np.float32), (side, side))
    grain = cv2.GaussianBlur(random.normal(0, 12, (side, side, 1)).astype(np.float32), (0, 0), 0.8)[..., None]
    return np.clip(128 + shapes + grain, 0, 255).astype(np.uint8)


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


ATTACKS = {
    "jpeg_80": lambda image: decode(encode_jpeg(image, 80)),
    "half_size": lambda image: scaled(image, 0.5),
    "half_size_and_back": lambda image: cv2.resize(
        scaled(image, 0.5), image.shape[1::-1], interpolation=cv2.INTER_CUBIC
    ),
    "crop_to_80_percent": lambda image: image[31:-59, 47:-43],
    "shift_by_3_px": lambda image: image[3:, 3:],
    "crop_and_jpeg_80": lambda image: decode(encode_jpeg(image[50:-40, 12:-78], 80)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_mark_is_found_after(attack):
    marked = watermark.embed(scene(list(ATTACKS).index(attack)), BITS, SECRET)
    mark = watermark.read(ATTACKS[attack](marked), SECRET)
    assert mark.found
    assert (mark.bits ^ BITS).bit_count() <= 1


def test_change_of_one_image_added_to_another_is_not_found():
    """A source and its marked edit are not enough to mark other images."""
    first = scene(0)
    change = watermark.embed(first, BITS, SECRET).astype(int) - first
    forged = np.clip(scene(1) + change, 0, 255).astype(np.uint8)
    assert not watermark.read(forged, SECRET).found


def test_unmarked_images_and_other_secrets_have_no_mark():
    assert not watermark.read(scene(10), SECRET).found
    assert not watermark.read(watermark.embed(scene(1), BITS, SECRET), b"another").found


@pytest.mark.parametrize("shape", [(4, 4), (1, 900), (700, 2), (64, 64)])
def test_tiny_and_thin_images_are_read_without_error(shape):
    image = np.full((*shape, 3), 90, np.uint8)
    assert watermark.embed(image, BITS, SECRET).shape == image.shape
    assert not watermark.read(image, SECRET).found


def test_change_is_invisible():
    for seed in range(4):
        image = scene(seed)
        error = np.mean((watermark.embed(image, BITS, SECRET).astype(float) - image) ** 2)
        assert 10 * np.log10(255**2 / error) > 40  # dB


@pytest.mark.parametrize("side", [256, 448, 900])
def test_mark_is_found_at_any_size(side):
    mark = watermark.read(watermark.embed(scene(3, side), BITS, SECRET), SECRET)
    assert mark.found
    assert (mark.bits ^ BITS).bit_count() <= 1
