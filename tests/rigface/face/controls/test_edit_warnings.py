"""Warnings of edits: each condition, its range, and silence for an ordinary edit."""

from dataclasses import replace

import numpy as np
import pytest

from rigface.edits import EditSpec, EditWarning, LightEdit
from rigface.face.controls.edit_warnings import MIN_CONFIDENCE, edit_warnings
from rigface.face.controls.transfer import drawn_edit, transfer
from rigface.face.head.open_head import OpenHead
from rigface.types import Face, FaceParams

HEAD = OpenHead.load().spec
SIZE = (800, 800)


def portrait(yaw_deg: float = 0.0) -> Face:
    """A face in the middle of a picture of 800 px, in colour, well read."""
    light = np.zeros((9, 3), np.float32)
    light[0] = 3.0
    params = FaceParams(
        shape=np.zeros(HEAD.shape, np.float32), expression=np.zeros(HEAD.expression, np.float32),
        head_rotation=np.zeros(3, np.float32), jaw_rotation=np.zeros(3, np.float32),
        camera=np.array([5.0, 0, 0], np.float32), albedo=np.zeros(HEAD.albedo, np.float32), light=light,
    )  # fmt: skip
    params = transfer(params, EditSpec(yaw_deg=yaw_deg), HEAD)
    mask = np.zeros((512, 512), np.uint8)
    mask[100:480, 130:380] = 255
    landmarks = np.full((478, 3), 256, np.float32)
    landmarks[152, 1], landmarks[[234, 454], 0] = 400, (150, 360)
    crop = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    affine = np.array([[1, 0, -144], [0, 1, -144]], np.float32)
    return Face(crop, affine, np.array([294, 244, 504, 544], np.float32), landmarks, params, mask, 0.002, 0.9)


def warned(face: Face, size: tuple[int, int] = SIZE, **asked) -> list[EditWarning]:
    edit = EditSpec(**asked)
    drawn = transfer(face.params, drawn_edit(face.params, edit, HEAD), HEAD)
    return edit_warnings(face, drawn, edit, HEAD, size)


@pytest.mark.parametrize("yaw", [-20, 20])
def test_ordinary_edit_is_silent(yaw):
    assert warned(portrait(), yaw_deg=yaw, expression={"smile": 0.6, "blink": 1}, light=LightEdit(azimuth_deg=50)) == []
    assert edit_warnings(replace(portrait(), confidence=0.1), portrait().params, EditSpec(), HEAD, SIZE) == []


@pytest.mark.parametrize("side", [-1, 1])
def test_hidden_side_is_named_with_the_range_that_holds(side):
    (found,) = warned(portrait(25 * side), yaw_deg=-10 * side)
    assert found.code == "unseen-side"
    low, high = found.holds["yaw_deg"]
    assert sorted((abs(low), abs(high))) == [2, 70]
    for inside in (low, high):
        assert warned(portrait(25 * side), yaw_deg=inside) == []
    assert warned(portrait(25 * side), yaw_deg=45 * side) == []


def test_head_seen_from_the_front_turns_as_far_to_either_side():
    low, high = warned(portrait(), yaw_deg=60)[0].holds["yaw_deg"]
    assert (low, high) == (-45, 45)


def test_profile_turns_back_less_than_a_half_profile():
    assert [w.code for w in warned(portrait(-46), yaw_deg=-26)] == ["unseen-side"]
    assert warned(portrait(-30), yaw_deg=-10) == []


def test_head_cut_by_the_picture_is_named_if_it_turns():
    face = portrait()
    face.mask[:, :] = 255
    cut = replace(face, frame_to_crop=np.array([[1, 0, 5], [0, 1, 5]], np.float32))
    assert [w.code for w in warned(cut, yaw_deg=20)] == ["cut-off"]
    assert warned(cut, yaw_deg=4, expression={"smile": 0.5}) == []
    assert warned(face, yaw_deg=20) == []  # the picture goes on beyond the crop


def test_face_that_is_hardly_read_is_named_and_an_unknown_confidence_is_not():
    hidden = replace(portrait(), confidence=MIN_CONFIDENCE - 0.01)
    assert [w.code for w in warned(hidden, expression={"smile": 0.5})] == ["uncertain-face"]
    assert warned(replace(portrait(), confidence=float("nan")), expression={"smile": 0.5}) == []


def test_number_beyond_what_a_face_can_do_is_named_with_its_range():
    (found,) = warned(portrait(), expression={"jaw_open": 1.0, "smile": 0.7})
    assert (found.code, found.holds) == ("too-much", {"jaw_open": (-0.5, 0.5)})


@pytest.mark.parametrize(("smile", "opening", "silent"), [(0.8, 30, False), (0.8, 2, True), (0.1, 30, True)])
def test_jaw_that_would_stretch_bared_teeth_is_named_with_its_range(smile, opening, silent):
    face = portrait()
    face.landmarks[[13, 14], 1], face.landmarks[[61, 291], 0] = (300, 300 + opening), (200, 320)
    face.params.expression[[HEAD.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right")]] = smile
    found = warned(face, expression={"jaw_open": 0.5})
    assert [(w.code, w.holds) for w in found] == ([] if silent else [("too-much", {"jaw_open": (-0.5, 0.3)})])
    assert warned(face, expression={"jaw_open": 0.25}) == []


def test_head_that_looks_up_is_named_if_it_turns():
    face = portrait()
    face = replace(face, params=transfer(face.params, EditSpec(pitch_deg=-30), HEAD))
    assert [w.code for w in warned(face, yaw_deg=15)] == ["unseen-side"]
    assert warned(face, expression={"smile": 0.5}) == []


def test_coloured_lamp_on_a_grey_photograph_is_named():
    grey = portrait()
    grey.crop[..., 1:] = grey.crop[..., :1]
    red = LightEdit(azimuth_deg=30, colour=(1, 0.3, 0.3))
    assert [w.code for w in warned(grey, light=red)] == ["no-colour"]
    assert warned(grey, light=LightEdit(azimuth_deg=30)) == warned(portrait(), light=red) == []
