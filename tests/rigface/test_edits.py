"""EditSpec: JSON round trip, and refusal of bad values by field name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigface.edits import NAMED_EXPRESSIONS, EditSpec, FaceEdit, LightEdit, face_edits, record_of

number = lambda low, high: st.floats(low, high, allow_nan=False)  # noqa: E731
lights = st.builds(
    LightEdit,
    azimuth_deg=number(-180, 180), elevation_deg=number(-90, 90), intensity=number(0, 10), ambient=number(0, 10),
    colour=st.tuples(*[number(0, 4)] * 3), relative=st.booleans(),
    sh=st.none() | st.lists(st.tuples(*[number(-9, 9)] * 3), min_size=9, max_size=9),
)  # fmt: skip
edits = st.builds(
    EditSpec,
    take=st.frozensets(st.sampled_from(["pose", "expression", "light", "shape", "identity"])),
    yaw_deg=st.none() | number(-90, 90), pitch_deg=st.none() | number(-60, 60), relative=st.booleans(),
    expression=st.dictionaries(st.sampled_from(sorted(NAMED_EXPRESSIONS)), number(-1, 2)), light=st.none() | lights,
    prompts=st.dictionaries(st.sampled_from(["eyes", "mouth", "mask"]), st.text(min_size=1, max_size=9)),
    strength=number(0, 1.5), region=st.sampled_from(["face", "eyes", "mouth"]),
)  # fmt: skip


@settings(deadline=None)
@given(edits)
def test_edit_round_trips_through_json(edit):
    assert EditSpec.from_json(edit.to_json()) == edit


def test_defaults_are_left_out_of_json():
    assert EditSpec().to_json() == "{}"
    assert json.loads(EditSpec(yaw_deg=15, light=LightEdit(azimuth_deg=40)).to_json()) == {
        "yaw_deg": 15,
        "light": {"azimuth_deg": 40},
    }


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"yaw": 3}', "yaw"),
        ('{"yaw_deg": 300}', "yaw_deg"),
        ('{"yaw_deg": "left"}', "yaw_deg"),
        ('{"yaw_deg": true}', "yaw_deg"),
        ('{"yaw_deg": NaN}', "yaw_deg"),
        ('{"take": ["pose", "soul"]}', "take"),
        ('{"take": "pose"}', "take"),
        ('{"expression": {"smile": 9}}', r"expression\.smile"),
        ('{"expression": ["smile"]}', "expression"),
        ('{"light": {"azimuth_deg": 400}}', r"light\.azimuth_deg"),
        ('{"light": {"colour": [1, 1]}}', r"light\.colour"),
        ('{"light": {"sh": [[1, 2, 3]]}}', r"light\.sh"),
        ('{"light": {"lumen": 1}}', r"light\.lumen"),
        ('{"light": 3}', "light"),
        ('{"strength": -1}', "strength"),
        ('{"region": "nose"}', "region"),
        ('{"prompts": {"nose": "red"}}', "prompts"),
        ('{"prompts": {"mouth": ""}}', r"prompts\.mouth"),
        ('{"prompts": ["mouth"]}', "prompts"),
        ('{"relative": 1}', "relative"),
        ("[1]", "edit"),
        ("{", "JSON"),
    ],
)
def test_bad_value_is_refused_by_field_name(text, field):
    with pytest.raises(ValueError, match=field):
        EditSpec.from_json(text)


def test_is_nothing_is_true_for_an_empty_edit():
    assert EditSpec().is_nothing
    assert EditSpec(yaw_deg=10, strength=0).is_nothing
    assert not EditSpec(yaw_deg=0).is_nothing
    assert EditSpec(take={"pose"}).needs_target


def test_edits_of_several_faces_round_trip_through_json():
    edits = [FaceEdit(0, EditSpec(yaw_deg=10)), FaceEdit("all", EditSpec(expression={"smile": 0.5}))]
    assert face_edits(json.loads(json.dumps(record_of(edits)))) == edits
    assert face_edits({"yaw_deg": 10}) == face_edits(record_of(edits[:1])) == [FaceEdit("largest", edits[0].edit)]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "edit: want an object"),
        ({"faces": []}, "faces: want a list"),
        ({"faces": [{"edit": {}}]}, "faces.0: want an object with face and edit"),
        ({"faces": [{"face": 0}, {"face": 1, "edit": {"yaw_deg": 91}}]}, "faces.1.yaw_deg"),
    ],
)
def test_bad_edit_of_one_face_of_several_is_refused_by_its_place(value, field):
    with pytest.raises(ValueError, match=f"^{field}"):
        face_edits(value)
