"""Curves of named numbers: shape, inverse, and what they do to an edit."""

from dataclasses import fields

import cv2
import numpy as np
import pytest

from rigface.editor import Editor, numbers
from rigface.edits import EditSpec, LightEdit
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.controls import named_curves
from rigface.face.controls.transfer import drawn_edit, expression_amount, transfer
from rigface.face.head.open_head import OpenHead
from rigface.image import decode
from rigface.types import FaceParams

HEAD = OpenHead.load().spec
RANGE = np.linspace(-3, 3, 121)
PORTRAITS = (
    "gov_0199", "gov_0110", "con_0100", "con_1190", "lis_0001", "con_1216", "con_0442", "con_1065", "con_0293",
    "con_0747", "con_1263", "con_1157", "con_0382",
)  # fmt: skip
CHECKED = (*(f"more/portraits/{name}.jpg" for name in PORTRAITS), "images/d3d_i11.png", "images/fap_i06.jpg")
OTHERS = (
    "cm_i02.jpg", "deca_i07.jpg", "deca_i11.png", "deca_i16.jpg", "deca_i21.jpg", "fad_i01.jpg", "ffuv_i01.png",
    "gcf_i01.png", "gcf_i03.png", "gcf_i05.png", "ins_i02.jpg", "ins_i11.png", "mica_i01.jpg", "mica_i02.png",
    "pir_i02.jpg",
)  # fmt: skip


@pytest.mark.parametrize("smile", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", named_curves.EXPRESSIONS)
def test_curve_rises_through_zero_and_is_identity_far_out(name, smile):
    drawn = [named_curves.drawn_change(name, x, HEAD, smile) for x in RANGE]
    assert (np.diff(drawn) > 0).all()
    assert named_curves.drawn_change(name, 0.0, HEAD, smile) == 0
    assert named_curves.drawn_change(name, -3.0, HEAD, smile) == -3
    assert np.allclose([named_curves.wanted_change(name, x, HEAD, smile) for x in drawn], RANGE)


def test_jaw_of_a_smiling_mouth_is_drawn_wider(smiling):
    asked = [
        EditSpec(expression={"jaw_open": 0.5}),  # a face that smiles
        EditSpec(expression={"jaw_open": 0.5, "smile": 0.0}),
        EditSpec(expression={"jaw_open": 0.5, "smile": 0.8}),
    ]
    drawn = [drawn_edit(smiling, edit, HEAD).expression["jaw_open"] for edit in asked]
    assert drawn[1] < drawn[0] - 0.1 < drawn[2] - 0.2
    for edit in asked:
        out = transfer(smiling, drawn_edit(smiling, edit, HEAD), HEAD)
        assert numbers(out, edit, HEAD, smiling)["jaw_open"] == pytest.approx(0.5, abs=1e-4)


def test_azimuth_curve_rises_is_odd_and_maps_the_half_circle_onto_itself():
    degrees = np.linspace(-180, 180, 73)
    drawn = [named_curves.drawn_azimuth(x, HEAD) for x in degrees]
    assert (np.diff(drawn) > 0).all()
    assert np.allclose(drawn, -np.array(drawn)[::-1])
    assert (drawn[0], drawn[36], drawn[-1]) == (-180, 0, 180)
    assert np.allclose([named_curves.wanted_azimuth(x, HEAD) for x in drawn], degrees)


def test_asking_for_what_the_photograph_has_changes_nothing(smiling):
    own = expression_amount(smiling, "smile", HEAD)
    out = transfer(smiling, drawn_edit(smiling, EditSpec(expression={"smile": own}), HEAD), HEAD)
    assert expression_amount(out, "smile", HEAD) == pytest.approx(own, abs=1e-5)


def test_more_is_drawn_than_asked_and_the_report_says_what_was_asked(smiling):
    edit = EditSpec(expression={"smile": 0.8}, light=LightEdit(azimuth_deg=50))
    out = transfer(smiling, drawn_edit(smiling, edit, HEAD), HEAD)
    assert expression_amount(out, "smile", HEAD) > 1.1
    asked = numbers(out, edit, HEAD, smiling)
    assert asked["smile"] == pytest.approx(0.8, abs=1e-4)
    assert asked["light_azimuth_deg"] == pytest.approx(50, abs=0.1)
    assert numbers(out, edit, HEAD)["light_azimuth_deg"] == pytest.approx(named_curves.drawn_azimuth(50, HEAD), abs=0.1)


def test_what_is_copied_and_single_axes_have_no_curve(smiling):
    for edit in (
        EditSpec(take={"expression", "light"}, yaw_deg=10),
        EditSpec(expression={"mouthSmileLeft": 0.9, "blink": 1}),
        EditSpec(light=LightEdit(sh=np.ones((9, 3)).tolist())),
    ):
        assert drawn_edit(smiling, edit, HEAD) == edit


def test_drawn_numbers_stay_in_the_range_of_edits(smiling):
    for asked in (-1, 2):
        edit = drawn_edit(smiling, EditSpec(expression={"smile": asked, "jaw_open": asked}), HEAD)
        assert np.abs(np.array(list(edit.expression.values())) - 0.5).max() <= 1.5


@pytest.fixture
def smiling() -> FaceParams:
    shapes = {
        f.name: [HEAD.size(a) for a in f.metadata["shape"]] for f in fields(FaceParams) if not f.metadata["optional"]
    }
    params = FaceParams(**{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    params.light[0] = 3.0
    params.expression[[HEAD.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right")]] = 0.4
    return params


@pytest.mark.slow
@pytest.mark.parametrize("people", [CHECKED, [f"images/{name}" for name in OTHERS]], ids=["smiling", "at rest"])
def test_people_who_did_not_shape_the_curves_read_what_was_asked(shared, people):
    """The first 15 people of the check of `scripts/fit_named_curves.py`, most of whom smile, and 15 who may not ship.

    Each list is in the order of its manifest or script.
    """
    editor = Editor(FaceAnalyzer.load())
    edits = {
        "smile": EditSpec(expression={"smile": 0.7}),
        "jaw_open": EditSpec(expression={"jaw_open": 0.5}),
        "light_azimuth_deg": EditSpec(light=LightEdit(azimuth_deg=50)),
    }
    read: dict[str, list[float]] = {name: [] for name in edits}
    for name in people:
        picture = decode((shared / "data" / name).read_bytes())
        shrink = min(512 / max(picture.shape[:2]), 1)
        picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        (face,) = editor.analyzer(picture)
        for number, edit in edits.items():
            out, _ = editor.apply(picture, face, editor.edited_params(face.params, edit, {}))
            read[number].append(numbers(editor.measure(out, [face])[0], edit, HEAD)[number])
    assert np.median(read["smile"]) == pytest.approx(0.7, abs=0.08)
    assert np.median(read["jaw_open"]) == pytest.approx(0.5, abs=0.05)
    assert np.median(read["light_azimuth_deg"]) == pytest.approx(50, abs=3)
