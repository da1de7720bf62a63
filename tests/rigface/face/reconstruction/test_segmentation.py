"""Person mask on drawn heads and on a photograph."""

import cv2
import numpy as np
import pytest
import skimage.data

from rigface.face.detection.factory import load_detector
from rigface.face.geometry import alignment
from rigface.face.reconstruction.segmentation import head_share, person_mask

SIZE = 512
FACE = np.array([256, 307]), np.array([108, 135])  # middle and half axes of the landmarks' outline


def oval(middle, axes) -> np.ndarray:
    picture = np.zeros((SIZE, SIZE), np.uint8)
    cv2.ellipse(picture, tuple(int(v) for v in middle), tuple(int(v) for v in axes), 0, 0, 360, 1, -1)
    return picture.astype(bool)


def outline() -> np.ndarray:
    around = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return FACE[0] + FACE[1] * np.stack([np.cos(around), np.sin(around)], axis=1)


def drawn(hair, skin, wall, shirt, big: float = 1.25) -> tuple[np.ndarray, np.ndarray]:
    """A head of these colours in front of a wall, and where the person is."""
    picture = np.empty((SIZE, SIZE, 3), np.float64)
    picture[:] = wall
    rows, columns = np.mgrid[:SIZE, :SIZE]
    picture += (columns / SIZE * 30 - 15)[..., None]  # light falls off along the wall
    neck = (abs(columns - 256) < 70) & (rows > 400)
    shirted = (rows > 480) | ((rows > 450) & (abs(columns - 256) > 90))
    hairy = oval(FACE[0] - [0, 40], FACE[1] * big)
    hairy &= rows < 400
    face = oval(*FACE)
    for where, colour in ((neck, skin), (shirted, shirt), (hairy, hair), (face, skin)):
        picture[where] = colour
    person = (neck & ~shirted) | hairy | face
    picture += np.random.default_rng(0).normal(0, 6, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), person


def agreement(mask: np.ndarray, person: np.ndarray) -> float:
    mask = mask > 0
    return (mask & person).sum() / (mask | person).sum()


@pytest.mark.parametrize(
    "colours",
    [
        ((40, 30, 25), (220, 170, 150), (90, 130, 190), (30, 60, 30)),
        ((20, 15, 12), (90, 60, 45), (200, 200, 190), (160, 40, 40)),
        ((225, 200, 140), (235, 190, 170), (60, 90, 60), (20, 20, 60)),
        ((160, 160, 165), (200, 150, 130), (120, 60, 30), (240, 240, 240)),
    ],
    ids=["brown hair", "dark skin", "fair hair", "grey hair"],
)
def test_drawn_head_is_segmented(colours):
    picture, person = drawn(*colours)
    mask = person_mask(picture, outline())
    assert mask.shape == (SIZE, SIZE)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    assert agreement(mask, person) > 0.93


@pytest.mark.parametrize("big", [1.2, 1.35, 1.55])
def test_hair_mask_ends_at_the_colour_edge(big):
    """The same landmarks under short and big hair: a mask that followed the sketch alone would be the same each
    time."""
    picture, person = drawn((40, 30, 25), (220, 170, 150), (90, 130, 190), (30, 60, 30), big)
    assert agreement(person_mask(picture, outline()), person) > 0.93


def test_whole_face_is_person_in_any_colour():
    picture, _ = drawn((40, 30, 25), (220, 170, 150), (90, 130, 190), (30, 60, 30))
    picture[270:330, 150:362] = (90, 130, 190)  # glasses that mirror the wall
    inner = oval(FACE[0], FACE[1] * 0.9)
    assert (person_mask(picture, outline())[inner] == 255).all()


@pytest.mark.parametrize("picture", ["grey", "noise", "black"])
def test_flat_colours_fall_back_to_the_sketch(picture):
    crop = {
        "grey": np.full((SIZE, SIZE, 3), 127, np.uint8),
        "black": np.zeros((SIZE, SIZE, 3), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8),
    }[picture]
    mask = person_mask(crop, outline()) > 0
    assert mask[oval(FACE[0], FACE[1] * 0.9)].all()
    assert 0.2 < mask.mean() < 0.6
    assert not mask[:60].any()
    assert not mask[:400, :40].any()


def cut(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (face,) = load_detector()(photo)
    affine = alignment.frame_to_crop(face.box)
    return alignment.crop(photo, affine), alignment.apply(affine, face.landmarks)


def test_mirrored_photograph_gives_the_mirrored_mask():
    crop, landmarks = cut(skimage.data.astronaut())
    mask = person_mask(crop, landmarks)
    assert (mask[: SIZE // 4, :40] == 0).all()  # the wall
    assert mask[60:120, 200:340].all()  # her hair
    assert mask[415:430, 220:300].all()  # her neck
    assert not mask[460:, 180:330].any()  # her collar
    mirrored, landmarks = cut(np.ascontiguousarray(skimage.data.astronaut()[:, ::-1]))
    assert agreement(mask, person_mask(mirrored, landmarks)[:, ::-1] > 0) > 0.95


def test_pixels_outside_the_frame_are_background():
    picture, _ = drawn((40, 30, 25), (220, 170, 150), (90, 130, 190), (30, 60, 30))
    mask = person_mask(picture, outline(), inside=(0, 200, 300.4, 900))
    assert not mask[:200].any()
    assert not mask[:, 300:].any()
    assert mask[250:300, 200:300].all()


def test_other_sizes_work_and_wrong_shapes_are_refused():
    picture, person = drawn((40, 30, 25), (220, 170, 150), (90, 130, 190), (30, 60, 30))
    small = cv2.resize(picture, (200, 200), interpolation=cv2.INTER_AREA)
    mask = person_mask(small, outline() * 200 / SIZE)
    assert agreement(mask, cv2.resize(person.astype(np.uint8), (200, 200)) > 0) > 0.9
    for wrong in (picture[:, :300], picture.astype(np.float32), picture[..., 0]):
        with pytest.raises(ValueError, match="want \\(H, H, 3\\) uint8"):
            person_mask(wrong, outline())


def test_coincident_landmarks_are_accepted():
    picture, _ = drawn((40, 30, 25), (220, 170, 150), (90, 130, 190), (30, 60, 30))
    assert person_mask(picture, np.full((478, 3), 256.0)).shape == (SIZE, SIZE)


def long_haired() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A drawn head whose hair falls over a shirt: picture, where a person is, and where that is shirt."""
    picture, _ = drawn((40, 30, 25), (220, 170, 150), (90, 130, 190), (30, 60, 30))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    locks = (abs(columns - 256) > 80) & (abs(columns - 256) < 190) & (rows > 250)
    shirt = (rows > 440) & ~locks
    picture[locks], picture[shirt] = (40, 30, 25), (150, 40, 60)
    return picture, locks | shirt | oval(FACE[0] - [0, 40], FACE[1] * 1.25), shirt


def test_hair_over_a_shirt_is_head_and_the_shirt_is_not():
    picture, person, shirt = long_haired()
    share = cv2.resize(head_share(person.astype(np.float32), picture, outline()), (SIZE, SIZE))
    assert share[person & ~shirt].mean() > 0.95
    assert share[shirt & (abs(np.arange(SIZE) - 256) > 200)].mean() < 0.1


def test_everything_above_the_chin_is_head_whatever_its_colour():
    picture, person, _ = long_haired()
    picture[40:130, 150:362] = (250, 230, 20)  # a hat
    person[40:130, 150:362] = True
    share = cv2.resize(head_share(person.astype(np.float32), picture, outline()), (SIZE, SIZE))
    assert share[50:120, 160:350].min() > 0.95
