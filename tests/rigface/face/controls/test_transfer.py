"""Transfer of traits and numbers of an edit to coefficients."""

from dataclasses import fields, replace
from itertools import chain, combinations

import numpy as np
import pytest
import torch

from rigface.edits import NAMED_EXPRESSIONS, EditSpec, LightEdit
from rigface.errors import BadEdit
from rigface.face.controls.transfer import (
    TRAIT_FIELDS,
    axes_of,
    exposure,
    light_coefficients,
    targets_of,
    transfer,
    white_point,
)
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.face.rendering.lighting import shade
from rigface.types import FaceParams, HeadSpec

NAMES = (
    "jawOpen",
    "mouthSmileLeft",
    "mouthSmileRight",
    "cheekSquintLeft",
    "cheekSquintRight",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
)
HEAD = HeadSpec("open", "test", 4, len(NAMES), 3, NAMES)
TRAITS = ("pose", "expression", "light", "shape", "identity")
ALL_EDITS = [frozenset(c) for n in range(4) for c in combinations(TRAITS, n)]


def face(value: float) -> FaceParams:
    sizes = {f.name: tuple(HEAD.size(a) for a in f.metadata["shape"]) for f in fields(FaceParams)}
    return FaceParams(**{name: np.full(size, value, np.float32) for name, size in sizes.items()})


def test_trait_table_names_each_field():
    assert set(chain(["camera"], *TRAIT_FIELDS.values())) == {f.name for f in fields(FaceParams)}


@pytest.mark.parametrize("take", ALL_EDITS, ids=lambda t: "+".join(sorted(t)) or "none")
def test_only_taken_traits_change(take):
    out = transfer(face(0), EditSpec(take=take), HEAD, face(0.2))
    moved = {f.name for f in fields(out) if getattr(out, f.name).any()}
    assert moved == {name for trait in take for name in TRAIT_FIELDS[trait]}


def test_empty_edit_changes_nothing():
    source = face(0.3)
    out = transfer(source, EditSpec(), HEAD)
    assert all(np.array_equal(getattr(out, f.name), getattr(source, f.name)) for f in fields(out))


def test_taking_a_trait_needs_a_target():
    with pytest.raises(ValueError, match="take: pose"):
        transfer(face(0), EditSpec(take={"pose"}), HEAD)


def degrees(params: FaceParams) -> np.ndarray:
    return to_degrees(to_matrix(params.head_rotation[None]))[0]


def test_angles_are_absolute_or_relative():
    turned = transfer(face(0), EditSpec(yaw_deg=20, roll_deg=-5), HEAD)
    assert np.allclose(degrees(turned), [20, 0, -5], atol=1e-3)
    assert np.allclose(degrees(transfer(turned, EditSpec(yaw_deg=5), HEAD)), [5, 0, -5], atol=1e-3)
    assert np.allclose(degrees(transfer(turned, EditSpec(yaw_deg=5, relative=True), HEAD)), [25, 0, -5], atol=1e-3)


def test_numbers_override_taken_traits():
    out = transfer(face(0), EditSpec(take={"expression"}, expression={"jaw_open": 0.7}), HEAD, face(0.2))
    assert out.expression[0] == pytest.approx(0.7)
    assert np.allclose(out.expression[1:], 0.2)


def test_named_expression_sets_its_axes():
    out = transfer(face(0.5), EditSpec(expression={"smile": 1.0, "blink_left": 0.25}), HEAD)
    want = (
        {name: 0.5 for name in NAMES}
        | NAMED_EXPRESSIONS["smile"]
        | {"eyeBlinkLeft": 0.25 * NAMED_EXPRESSIONS["blink_left"]["eyeBlinkLeft"]}
    )
    assert np.allclose(out.expression, [want[name] for name in NAMES])


def test_unknown_expression_is_named_in_the_error():
    with pytest.raises(ValueError, match=r"expression\.grin"):
        axes_of("grin", HEAD)


def test_region_keeps_the_rest_of_the_face():
    out = transfer(face(0), EditSpec(take={"expression"}, region="mouth"), HEAD, face(0.2))
    assert np.allclose(out.expression, [0.2 if n.startswith(("mouth", "jaw")) else 0 for n in NAMES])
    assert np.allclose(out.jaw_rotation, 0.2)
    assert not out.bfm_expression.any()  # a code of the whole face, which has no mouth of its own


def test_region_eyes_keeps_jaw_and_ignores_mouth():
    edit = EditSpec(take={"expression"}, expression={"jaw_open": 1.0, "blink_left": 0.8}, region="eyes")
    out = transfer(face(0), edit, HEAD, face(0.2))
    mouth = [n.startswith(("mouth", "jaw")) for n in NAMES]
    assert not out.expression[mouth].any()
    assert out.expression[NAMES.index("eyeBlinkLeft")] == pytest.approx(
        0.8 * NAMED_EXPRESSIONS["blink_left"]["eyeBlinkLeft"]
    )
    assert not out.jaw_rotation.any()
    open_head = OpenHead.load().spec
    shapes = {f.name: [open_head.size(a) for a in f.metadata["shape"]] for f in fields(FaceParams)}
    still = FaceParams(**{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    out = transfer(still, EditSpec(expression={"jaw_open": 1.0}, region="eyes"), open_head)
    assert all(np.array_equal(getattr(out, f.name), getattr(still, f.name)) for f in fields(FaceParams))


def test_region_needs_a_head_with_named_axes():
    with pytest.raises(BadEdit, match=r"region: .*have no names"):
        transfer(face(0), EditSpec(yaw_deg=3, region="eyes"), replace(HEAD, expression_names=()))


def test_strength_interpolates_and_extrapolates():
    edit = EditSpec(take={"light"}, yaw_deg=40, strength=0.5)
    out = transfer(face(0), edit, HEAD, face(0.2))
    assert np.allclose(out.light, 0.1)
    assert np.allclose(degrees(out), [20, 0, 0], atol=1e-3)


def test_lamp_lights_its_own_side():
    light = torch.from_numpy(
        light_coefficients(LightEdit(azimuth_deg=90, elevation_deg=0, intensity=1, ambient=0.2), 1.0)
    )
    right, left, front = shade(torch.tensor([[[1.0, 0, 0], [-1, 0, 0], [0, 0, 1]]]), light[None])[0, :, 0]
    assert right == pytest.approx(1.2, abs=0.1)
    assert left == pytest.approx(0.2, abs=0.1)
    assert left - 0.05 < front < right


def test_relative_light_keeps_the_exposure():
    dim = face(0)
    dim.light[0] = 0.5
    out = transfer(dim, EditSpec(light=LightEdit(intensity=0, ambient=1)), HEAD)
    assert exposure(out.light) == pytest.approx(exposure(dim.light), rel=1e-4)


def test_light_can_be_given_as_harmonics():
    sh = np.arange(27, dtype=np.float32).reshape(9, 3) / 10
    assert np.allclose(light_coefficients(LightEdit(sh=sh.tolist(), relative=False), 7.0), sh)


def test_open_jaw_keeps_the_pose():
    from rigface.face.head.open_head import OpenHead

    head = OpenHead.load().spec
    sizes = {f.name: tuple(head.size(a) for a in f.metadata["shape"]) for f in fields(FaceParams)}
    still = FaceParams(**{name: np.full(size, 0.1, np.float32) for name, size in sizes.items()})
    opened = transfer(still, EditSpec(expression={"jaw_open": 1.0}), head)
    assert not np.allclose(opened.camera, still.camera)  # the axis lifts the head; this takes it down again
    both = transfer(still, EditSpec(expression={"jaw_open": 1.0}, yaw_deg=10, pitch_deg=5, roll_deg=0), head)
    assert np.allclose(degrees(both), [10, 5, 0], atol=1e-3)


def test_white_point_is_the_sources_own():
    warm = face(0)
    warm.light[0] = (3.0, 2.0, 1.0)
    out = transfer(warm, EditSpec(light=LightEdit(azimuth_deg=50)), HEAD)
    assert np.allclose(out.light / out.light[..., 1:2], warm.light[0] / 2.0, rtol=1e-4)


def test_transferred_light_has_the_sources_exposure():
    bright, dim = face(0), face(0)
    bright.light[0], bright.light[1], dim.light[0] = 9.0, 3.0, 1.0
    out = targets_of(dim, {"light": bright})
    assert exposure(out.light) == pytest.approx(exposure(dim.light), rel=1e-4)
    assert np.allclose(out.light[1] / out.light[0], 1 / 3, rtol=1e-4)
    assert np.array_equal(targets_of(dim, {"pose": face(0.3)}).light, dim.light)


def test_transferred_light_keeps_the_sources_white_balance():
    grey, warm = face(0), face(0)
    grey.light[0] = 1.0
    warm.light[0], warm.light[1] = (3.0, 2.0, 1.0), (1.0, 0.5, 0.1)
    out = targets_of(grey, {"light": warm}).light
    assert np.allclose(white_point(out), white_point(grey.light), rtol=1e-4)
    assert np.allclose(out[1] / out[0], warm.light[1] / warm.light[0], rtol=1e-4)
    warm.light[:] = warm.light * (1, 1, -0.01)
    assert np.abs(targets_of(grey, {"light": warm}).light).max() < 3  # a colour that is not there stays small
