"""Regions of a true frame, and outputs of known error beside it."""

import cv2
import numpy as np
import pytest

from rigface.evaluation.regions import TrueFrame, regions_of

SIZE, FACE = 128, slice(30, 98)
OUTLINE = np.float32([[30, 30, 0], [98, 30, 0], [98, 98, 0], [30, 98, 0]])


def texture(seed: int) -> np.ndarray:
    """Skin of a given pattern on a grey wall."""
    picture = np.full((SIZE, SIZE, 3), 120, np.float32)
    noise = np.random.default_rng(seed).normal(0, 25, (SIZE, SIZE, 3))
    picture[FACE, FACE] += cv2.GaussianBlur(noise, (0, 0), 0.8)[FACE, FACE]
    return picture.clip(0, 255).astype(np.uint8)


def person(shift: int = 0) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[20:110, 20 + shift : 108 + shift] = True
    return mask


@pytest.fixture(scope="module")
def regions():
    return regions_of(OUTLINE, OUTLINE + np.float32([8, 0, 0]), (person(), person(8)))


@pytest.fixture(scope="module")
def frame(regions):
    return TrueFrame(texture(0), regions, OUTLINE)


def test_true_frame_itself_is_perfect(frame):
    numbers = frame.compare(texture(0), OUTLINE)
    assert numbers["psnr_face"] == 100
    assert numbers["ssim_face"] == pytest.approx(1)
    assert numbers["sharpness_face"] == pytest.approx(1)
    assert numbers["landmarks"] == 0


def test_blur_wins_psnr_and_loses_its_detail(frame):
    wrong = texture(1)  # as sharp as the truth, and another pattern
    blurred = cv2.GaussianBlur(wrong, (0, 0), 1.5)
    sharp, soft = (frame.compare(p, OUTLINE) for p in (wrong, blurred))
    assert soft["psnr_face"] > sharp["psnr_face"] + 1
    assert sharp["sharpness_face"] == pytest.approx(1, abs=0.1)
    assert soft["sharpness_face"] < 0.3


def test_dulled_skin_shows_in_the_tone(frame):
    dull = (0.7 * texture(0) + 0.3 * 160).astype(np.uint8)
    assert frame.compare(texture(0), OUTLINE)["tone"] == pytest.approx(0, abs=1e-3)
    assert 4 < frame.compare(dull, OUTLINE)["tone"] < 8  # 12 grey levels


def test_sharpening_has_more_detail_than_the_truth(frame):
    picture = texture(0)
    sharpened = cv2.addWeighted(picture, 2.5, cv2.GaussianBlur(picture, (0, 0), 1.0), -1.5, 0)
    numbers = frame.compare(sharpened, OUTLINE)
    assert numbers["sharpness_face"] > 1.5
    assert numbers["psnr_face"] < 40


def test_landmark_error_is_a_share_of_the_side(frame):
    assert frame.compare(texture(0), OUTLINE + np.float32([1.28, 0, 0]))["landmarks"] == pytest.approx(1)
    assert "landmarks" not in frame.compare(texture(0), None)


@pytest.mark.parametrize(
    ("spot", "hit"), [((64, 64), "face"), ((64, 31), "rim"), ((64, 22), "outline"), ((4, 4), "background")]
)
def test_an_error_counts_in_its_region(frame, regions, spot, hit):
    spoilt = texture(0)
    y, x = spot
    spoilt[y : y + 2, x : x + 2] = 0
    numbers = frame.compare(spoilt, OUTLINE)
    touched = {name for name in regions if numbers[f"psnr_{name}"] < 100}
    assert hit in touched
    assert touched == {name for name, mask in regions.items() if mask[y : y + 2, x : x + 2].any()}


def test_rim_and_outline_follow_both_places(regions):
    assert regions["rim"][64, 30]
    assert regions["rim"][64, 106]
    assert regions["outline"][64, 20]
    assert regions["outline"][64, 115]
    assert not regions["rim"][64, 64]


def test_unknown_parts_of_the_true_frame_do_not_count():
    shown = np.ones((SIZE, SIZE), bool)
    shown[:, :64] = False
    masks = regions_of(OUTLINE, OUTLINE, (person(), person()), shown)
    assert not any(mask[:, :64].any() for mask in masks.values())
    nothing = regions_of(OUTLINE, OUTLINE, (person(), person()), np.zeros((SIZE, SIZE), bool))
    assert nothing == {}
