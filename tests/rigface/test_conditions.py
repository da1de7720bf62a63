"""Conditions in every style and size."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from rigface.conditions import HOLE_GREY, NOSE, POINT_COLOURS, Composer, cut_out_person
from rigface.edits import EditSpec, LightEdit
from rigface.face.controls.transfer import light_coefficients, transfer
from rigface.face.head.heads import load_head
from rigface.face.head.open_head import OpenHead
from rigface.image import linear_to_srgb
from rigface.profile import ConditionSpec, FaceProfile
from rigface.testing.official.flame import write_flame
from rigface.types import Face, FaceParams

SPEC = OpenHead.load().spec
LIGHT = light_coefficients(LightEdit(azimuth_deg=70), 1.0)


@pytest.fixture(scope="module")
def face() -> Face:
    light = np.zeros((9, 3), np.float32)
    light[0] = 3.0
    params = FaceParams(
        shape=np.zeros(SPEC.shape, np.float32), expression=np.zeros(SPEC.expression, np.float32),
        head_rotation=np.zeros(3, np.float32), jaw_rotation=np.zeros(3, np.float32),
        camera=np.array([5.0, 0, 0], np.float32), albedo=np.zeros(SPEC.albedo, np.float32), light=light,
    )  # fmt: skip
    y, x = np.mgrid[0:512, 0:512]
    crop = np.stack([x // 2, y // 2, 0 * x + 128], -1).astype(np.uint8)
    mask = np.where((x - 256) ** 2 + (y - 256) ** 2 < 190**2, 255, 0).astype(np.uint8)
    box = np.array([100, 100, 400, 400], np.float32)
    return Face(crop, np.eye(2, 3, dtype=np.float32), box, np.zeros((478, 3), np.float32), params, mask, 0.01)


def wanted(face: Face, **asked) -> FaceParams:
    return transfer(face.params, EditSpec(**asked), SPEC)


@pytest.mark.parametrize("style", ["texture", "albedo", "shape", "points"])
@pytest.mark.parametrize("size", [64, 256])
def test_every_style_and_size_has_valid_conditions(face, style, size):
    conditions = Composer(ConditionSpec(style, size))(face, wanted(face, yaw_deg=15)).conditions
    assert conditions.reference.shape == conditions.background.shape == conditions.render.shape == (size, size, 3)
    assert conditions.expression_code.shape == (SPEC.expression,)
    assert conditions.render.dtype == np.uint8


def test_points_are_drawn_where_the_wanted_head_has_eyes_nose_and_mouth(face):
    composer = Composer(ConditionSpec("points", 256))
    ahead, turned = (composer(face, wanted(face, yaw_deg=yaw)).conditions.render for yaw in (0, 25))
    places = [np.argwhere((ahead == colour).all(-1)).mean(0) for colour in POINT_COLOURS]  # (y, x)
    (right_y, right_x), (left_y, left_x), nose, (_, mouth_right), (_, mouth_left) = places
    assert abs(right_y - left_y) < 3
    assert right_y < nose[0]
    assert right_x < mouth_right < nose[1] < mouth_left < left_x
    moved = np.argwhere((turned == POINT_COLOURS[NOSE]).all(-1)).mean(0)
    assert moved[1] > nose[1] + 10  # to the person's left


def test_identity_vector_is_that_of_the_person_who_is_shown(face, monkeypatch):
    monkeypatch.setattr(Composer, "_identify", staticmethod(lambda crop, _: crop[0, :2, 0].astype(np.float32)))
    other = replace(face, crop=255 - face.crop)
    composer = Composer(ConditionSpec(size=64, identity="dlib"))
    assert composer(face, face.params).conditions.identity.tolist() == [0.0, 0.0]
    assert composer(face, face.params, donor=other).conditions.identity.tolist() == [255.0, 255.0]
    assert Composer(ConditionSpec(size=64))(face, face.params).conditions.identity is None


def test_texture_render_is_the_preview(face):
    composed = Composer(ConditionSpec("texture", 512))(face, face.params)
    assert np.array_equal(composed.conditions.render, face.crop)
    assert np.array_equal(composed.conditions.reference, face.crop)


def test_rendered_head_is_on_black_and_free_of_photograph_colours(face):
    other = replace(face, crop=255 - face.crop)
    for style in ("albedo", "shape"):
        compose = Composer(ConditionSpec(style, 128))
        one, two = (compose(f, face.params).conditions.render for f in (face, other))
        assert np.array_equal(one, two)
        assert not one[0].any()
        assert one[64, 64].min() > 20
    shape = Composer(ConditionSpec("shape", 128))(face, face.params).conditions.render
    assert np.ptp(shape.astype(int), axis=-1).max() <= 1  # grey under a white light


def test_light_changes_the_rendered_head(face):
    compose = Composer(ConditionSpec("albedo", 128))
    render = compose(face, wanted(face, light=LightEdit(azimuth_deg=80))).conditions.render.astype(int)
    assert render[60:70, 80:90].mean() > 1.3 * render[60:70, 38:48].mean()


def test_expression_code_is_the_edited_one(face):
    code = Composer(ConditionSpec("texture", 64))(
        face, wanted(face, expression={"jaw_open": 0.7})
    ).conditions.expression_code
    assert code[SPEC.expression_names.index("jawOpen")] == pytest.approx(0.7)


def test_hole_covers_the_person_before_and_after(face):
    composed = Composer(ConditionSpec("texture", 256))(face, wanted(face, roll_deg=30))
    hole = (composed.conditions.background == HOLE_GREY).all(-1)
    before = face.mask[::2, ::2] > 128
    assert hole[before].all()
    assert hole[composed.mask > 128].all()
    assert not hole[:10].any()
    assert np.array_equal(composed.conditions.background[:10], composed.conditions.reference[:10])


def test_hole_has_a_margin_around_the_masks():
    crop = np.zeros((100, 100, 3), np.uint8)
    mask = np.zeros((100, 100), np.uint8)
    mask[40:60, 40:60] = 255
    hole = (cut_out_person(crop, mask, margin=0.03) == HOLE_GREY).all(-1)
    assert hole[37:63, 45:55].all()
    assert not hole[30:36].any()


def test_hole_without_a_margin_is_that_of_the_released_code(fixtures):
    figure = dict(np.load(fixtures / "official" / "background.npz"))
    source, target = (255 * (figure[f"labels_{name}"] >= 1).astype(np.uint8) for name in ("source", "target"))
    for masks, name in (((source,), "source_only"), ((source, target), "union")):
        background = cut_out_person(figure["source"], *masks, margin=0)
        assert sha256(background.tobytes()).digest() == figure[f"background_{name}_sha256"].tobytes()


def test_missing_expression_code_is_refused(face):
    with pytest.raises(ValueError, match="bfm_expression"):
        Composer(ConditionSpec("albedo", 64, expression_field="bfm_expression"))(face, face.params)
    with_code = replace(face.params, bfm_expression=np.ones(64, np.float32))
    compose = Composer(ConditionSpec("albedo", 64, expression_field="bfm_expression"))
    composed = compose(replace(face, params=with_code), with_code)
    assert composed.conditions.expression_code.shape == (64,)


def test_unknown_style_or_field_is_refused():
    with pytest.raises(ValueError, match="render_style: want one of albedo, texture, shape"):
        ConditionSpec("oil")
    with pytest.raises(ValueError, match="expression_field"):
        ConditionSpec(expression_field="mood")


FLAME = FaceProfile(reconstructor="deca", head="flame", margin=0.0, colours="linear-as-is", align_centre=True)


@pytest.fixture(scope="module")
def flame(tmp_path_factory, face) -> Face:
    """The face in coefficients of FLAME, whose files are among the assets."""
    folder = tmp_path_factory.mktemp("assets")
    write_flame(folder / "flame", texture=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIGFACE_ASSETS", str(folder))
        spec = load_head("flame").spec
        sizes = {"shape": spec.shape, "expression": spec.expression, "albedo": spec.albedo}
        params = replace(face.params, **{name: np.zeros(size, np.float32) for name, size in sizes.items()})
        yield replace(face, params=params)


def test_flame_is_drawn_in_its_own_colours_on_black(flame):
    render = Composer(ConditionSpec("albedo", 128, profile=FLAME))(flame, flame.params).conditions.render
    encoded = Composer(ConditionSpec("albedo", 128, profile=replace(FLAME, colours="srgb")))(flame, flame.params)
    drawn = render.any(-1)
    assert 0.1 < drawn.mean() < 0.6
    expected = linear_to_srgb(render[drawn] / np.float32(255)) * 255
    assert np.abs(encoded.conditions.render[drawn] - expected).max() < 8  # the dark levels lie far apart


def test_hole_of_everything_has_no_margin(flame):
    compose, darker = Composer(ConditionSpec("albedo", 512, profile=FLAME)), replace(flame.params, light=LIGHT)
    hole = (compose(flame, darker).conditions.background == HOLE_GREY).all(-1)
    assert (hole == (flame.mask > 127)).mean() > 0.999  # but for pixels of the photograph that are as grey


def test_turned_head_is_cut_out_too(flame):
    compose, turned = Composer(ConditionSpec("albedo", 256, profile=FLAME)), np.array([0, 0.5, 0], np.float32)
    small = replace(flame, mask=np.zeros_like(flame.mask))
    composed = compose(small, replace(flame.params, head_rotation=turned))
    assert np.array_equal(composed.mask > 0, composed.conditions.render.any(-1))
    assert (composed.conditions.background[composed.mask > 0] == HOLE_GREY).all()
    shown = np.zeros_like(flame.mask)
    shown[:100] = 255
    seen = compose(small, replace(flame.params, head_rotation=turned), shown)  # a photograph shows the person moved
    assert (seen.conditions.background[:50] == HOLE_GREY).all()
    assert not (seen.conditions.background[52:] == HOLE_GREY).all()


def test_head_without_preview_has_no_texture_render():
    with pytest.raises(ValueError, match="no preview"):
        Composer(ConditionSpec("texture", 64, profile=FLAME))


def test_photograph_is_relit_with_any_head(flame):
    compose = Composer(ConditionSpec("shape", 128, profile=FLAME))
    crop, mask = compose.staged(flame, replace(flame.params, light=LIGHT))
    inside = compose(flame, flame.params).conditions.render.any(-1).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(mask, flame.mask)
    assert np.array_equal(crop[~inside][:1000], flame.crop[~inside][:1000])
    assert crop[200:300, 300:330].mean() > 1.1 * crop[200:300, 180:210].mean()  # the lamp is on the right
