"""Face swap by the preview: who is seen, what stays of the recipient, and that no seam shows."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import skimage.data

from rigface.conditions import Composer
from rigface.editor import Editor
from rigface.edits import EditSpec
from rigface.face.controls.edit_warnings import edit_warnings
from rigface.face.identity.dlib_embedding import DlibIdentity
from rigface.face.preview.face_swap import FaceSwapper, Swapped
from rigface.profile import ConditionSpec
from rigface.types import Face
from rigface.video.decode import read_frames
from tests import remembered

SWAP = EditSpec(take={"identity"})


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(remembered.analyzer())


@pytest.fixture(scope="module")
def photo(fixtures) -> np.ndarray:
    return next(read_frames(str(fixtures / "clip.mp4"))).image


@pytest.fixture(scope="module")
def face(editor, photo) -> Face:
    return editor.analyzer(photo)[0]


@pytest.fixture(scope="module")
def donor(editor) -> Face:
    return max(editor.analyzer(skimage.data.astronaut()), key=lambda face: face.box[2] - face.box[0])


@pytest.fixture(scope="module")
def swapped(face, donor) -> Swapped:
    return FaceSwapper()(face.crop, face.params, donor)


def test_result_is_recognised_as_the_donor(editor, swapped, face, donor):
    network = DlibIdentity()
    crops = (face.crop, donor.crop, swapped.image)
    chips = [network.chip(crop, editor.analyzer.detector(crop)[0].landmarks) for crop in crops]
    recipient, wanted, result = network.embed(chips)
    to_donor, to_recipient = (np.linalg.norm(result - vector) for vector in (wanted, recipient))
    assert to_donor < 0.65 < to_recipient  # of two strangers, other people than this swap's, it is about 0.85
    assert to_donor < np.linalg.norm(recipient - wanted) - 0.15


def test_all_beside_the_face_stays_to_the_bit(swapped, face):
    beside = swapped.mask == 0
    assert np.array_equal(swapped.image[beside], face.crop[beside])
    assert 0.1 < (swapped.mask > 200).mean() < 0.4


def test_tones_meet_at_the_rim_and_over_the_face(swapped, face):
    inside, outside = swapped.mask > 200, cv2.dilate((swapped.mask == 0).astype(np.uint8), np.ones((25, 25))) > 0
    rim = (swapped.mask > 20) & ~inside & outside
    shown, under = (cv2.GaussianBlur(p.astype(np.float32), (0, 0), 6) for p in (swapped.image, face.crop))
    assert np.abs(shown - under)[rim].mean() < 6
    own, given = (p[inside].mean(0) for p in (swapped.image, face.crop))
    assert np.abs(own - given).max() < 12


def test_person_swapped_with_themselves_stays(face):
    out = FaceSwapper()(face.crop, face.params, face).image
    assert np.abs(out.astype(int) - face.crop).max() < 6


def test_pose_and_expression_are_kept_and_can_be_edited_further(editor, photo, face, donor):
    out = editor.edit(photo, SWAP, donor)
    for name in ("yaw_deg", "pitch_deg", "roll_deg"):
        assert out.achieved[0][name] == pytest.approx(out.asked[0][name], abs=4)
    assert np.array_equal(out.asked_params[0].expression, face.params.expression)
    assert np.array_equal(out.asked_params[0].shape, donor.params.shape)
    turned = editor.edit(photo, replace(SWAP, yaw_deg=15, relative=True), donor)
    assert turned.achieved[0]["yaw_deg"] - out.achieved[0]["yaw_deg"] == pytest.approx(15, abs=6)
    assert np.array_equal(editor.edit(photo, replace(SWAP, strength=0), donor).image, photo)


def test_model_gets_the_donor_as_reference_and_the_swap_as_render(editor, photo, donor):
    seen = []

    def model(conditions, seed):
        seen.append(conditions)
        return conditions.render

    Editor(editor.analyzer, model, Composer(ConditionSpec("texture", 128))).edit(photo, SWAP, donor, measure=False)
    source = editor.analyzer(photo)[0]
    small = lambda picture: cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA).astype(int)  # noqa: E731
    assert np.array_equal(seen[0].reference, small(donor.crop))
    _, swapped = editor.swapped(photo, source, donor)
    assert np.abs(seen[0].render - small(swapped.crop)).mean() < 1
    assert np.abs(seen[0].render - small(source.crop)).mean() > 2


def test_donor_from_the_hidden_side_is_warned_of(editor, face, donor):
    turned = editor.edited_params(donor.params, EditSpec(yaw_deg=-50), {})
    head, size = editor.analyzer.head, (512, 512)
    found = edit_warnings(face, face.params, SWAP, head, size, replace(donor, params=turned, confidence=0.1))
    assert [warning.code for warning in found[:2]] == ["unseen-side", "uncertain-face"]
    assert all("other photograph" in warning.text for warning in found[:2])
    assert not edit_warnings(face, face.params, SWAP, head, size, donor)
