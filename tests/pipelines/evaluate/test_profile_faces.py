"""Faces of a dataset as the models of other profiles see them."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.evaluate.profile_faces import ProfileFaces, plain_conditions
from rigface.face.analyzer import FaceAnalyzer, choose_faces
from rigface.profile import OWN, FaceProfile
from rigface.testing.official.flame import write_flame
from rigface.video.decode import read_frames

FLAME = FaceProfile(head="flame")


@pytest.fixture(scope="module")
def face(fixtures):
    image = next(iter(read_frames(str(fixtures / "clip.mp4")))).image
    return choose_faces(FaceAnalyzer.load()(image), "largest")[0]


def test_own_faces_stay_what_they_are_for_own_models(face):
    head = FaceAnalyzer.load().head
    seen, spec = ProfileFaces(head, "segformer-0123")(face, OWN)
    assert seen is face
    assert spec == head


def test_face_is_analysed_anew_in_its_own_crop_for_another_head(face, tmp_path, monkeypatch):
    write_flame(tmp_path / "flame", texture=False)
    monkeypatch.setenv("RIGFACE_ASSETS", str(tmp_path))
    seen, spec = ProfileFaces(FaceAnalyzer.load().head, "selfie")(face, FLAME)
    assert (spec.name, len(seen.params.expression)) == ("flame", spec.expression)
    assert np.array_equal(seen.crop, face.crop)
    assert np.array_equal(seen.frame_to_crop, face.frame_to_crop)
    assert np.abs(seen.landmarks - face.landmarks).max() < 20  # crop px: the landmarker saw the face larger
    assert seen.residual < 0.05
    again, _ = ProfileFaces(spec, "selfie")(seen, FLAME)
    assert again is seen


def test_expression_code_of_the_dataset_is_kept(face):
    coded = FaceProfile(expression_codes="d3dfr")
    head, code = FaceAnalyzer.load().head, np.ones(64, np.float32)
    with_code = replace(face, params=replace(face.params, bfm_expression=code))
    assert ProfileFaces(head, "selfie")(with_code, coded)[0] is with_code


def test_targets_are_drawn_with_the_head_of_the_dataset():
    head = FaceAnalyzer.load().head
    assert plain_conditions(head, 64).render_style == "texture"
    assert plain_conditions(replace(head, name="flame"), 64).profile.head == "flame"
