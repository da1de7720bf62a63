"""Refinement: faces that start away from their picture come nearer to it, and good ones stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.head.flame import load_flame
from rigface.face.head.heads import load_head
from rigface.face.head.overlay import with_open_albedo
from rigface.face.reconstruction import refinement
from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.reconstruction.protocol import Fit
from rigface.face.reconstruction.reconstructor import load_reconstructor
from rigface.face.reconstruction.refinement import Refined
from rigface.face.rendering.renderer import render
from rigface.image import linear_to_srgb
from rigface.testing.official.flame import write_flame
from rigface.types import FaceParams

TRACKS = np.array([4, 4, 9])
UNKNOWN = np.full(3, np.nan, np.float32)


class Start:
    """A reconstructor that gives what it is told to."""

    def __init__(self, head, params):
        self.head_spec, self.version, self.params = head.spec, "", params

    def __call__(self, crops, landmarks, blendshapes, tracks):
        return Fit(self.params, UNKNOWN, UNKNOWN, UNKNOWN)


@pytest.fixture(scope="module")
def flame(tmp_path_factory):
    return with_open_albedo(load_flame(write_flame(tmp_path_factory.mktemp("flame"), steps=1, texture=False), 20, 10))


@pytest.fixture(scope="module")
def open_head():
    return load_head("open")


def scene(head):
    """Coefficients of three faces, their crops and landmarks."""
    params = FaceParams(
        shape=torch.zeros(3, head.spec.shape),
        expression=torch.zeros(3, head.spec.expression),
        head_rotation=torch.tensor([[0.0, 0.1, 0.0], [0.05, -0.2, 0.0], [0.0, 0.0, 0.1]]),
        jaw_rotation=torch.zeros(3, 3),
        camera=torch.tensor([[6.5, 0.0, 0.0]]).expand(3, 3).clone(),
        albedo=torch.zeros(3, head.spec.albedo),
        light=torch.zeros(3, 9, 3),
        eyelids=torch.zeros(3, 2) if head.eyelids is not None else None,
    )
    params.light[:, 0], params.light[:, 1] = 0.8 * AMBIENT, 0.3
    images = linear_to_srgb(render(head, params).image.permute(0, 2, 3, 1).clamp(0, 1).numpy())
    landmarks = to_crop_px(project(head.of(params)[:, :468], params.camera)).numpy()
    return params.map(lambda a: a.numpy()), list((images * 255 + 0.5).astype(np.uint8)), landmarks


def moved(params):
    """The same, away from the truth in pose, expression, size and light."""
    return replace(
        params,
        expression=params.expression + np.float32(0.1),
        head_rotation=params.head_rotation + np.float32(0.03),
        camera=params.camera * np.float32([1.02, 1, 1]),
        light=params.light * np.float32(0.85),
    )


@pytest.mark.parametrize("name", ["flame", "open_head"])
def test_steps_bring_a_face_nearer_to_its_picture(request, name):
    head = request.getfixturevalue(name)
    truth, crops, landmarks = scene(head)
    start = Start(head, moved(truth))
    before, after = (Refined(start, head, steps)(crops, landmarks, None, TRACKS) for steps in (0, 12))
    assert (after.landmark_residual < 0.5 * before.landmark_residual).all()
    assert (after.photometric_residual < 0.8 * before.photometric_residual).all()
    for field in ("head_rotation", "camera"):  # of the light, the front says little
        gaps = [np.abs(getattr(fit.params, field) - getattr(truth, field)).mean() for fit in (before, after)]
        assert gaps[1] < gaps[0]


def test_right_face_stays(flame):
    truth, crops, landmarks = scene(flame)
    fit = Refined(Start(flame, truth), flame, 3)(crops, landmarks, None, TRACKS)
    assert (fit.landmark_residual < 1e-3).all()
    assert (fit.photometric_residual < 0.01).all()
    assert fit.params.eyelids.min() >= 0


def test_faces_of_a_track_change_their_shape_together(flame):
    truth, crops, landmarks = scene(flame)
    fit = Refined(Start(flame, moved(truth)), flame, 4)(crops, landmarks, None, TRACKS)
    for field in ("shape", "albedo"):
        values = getattr(fit.params, field)
        assert np.array_equal(values[0], values[1])
        assert not np.allclose(values[0], values[2])


def test_size_of_the_batches_changes_nothing(flame, monkeypatch):
    truth, crops, landmarks = scene(flame)
    refined = Refined(Start(flame, moved(truth)), flame, 3)
    whole = refined(crops, landmarks, None, TRACKS)
    monkeypatch.setattr(refinement, "BATCH", 2)
    parts = refined(crops, landmarks, None, TRACKS)
    assert np.allclose(whole.params.expression, parts.params.expression, atol=1e-4)
    assert np.allclose(whole.params.shape, parts.params.shape, atol=1e-4)


def test_loader_refines_on_request_and_needs_mediapipe_points():
    refined = load_reconstructor(refine=2)
    assert isinstance(refined, Refined)
    assert refined.head_spec.name == "open"
    with pytest.raises(ValueError, match=r"MediaPipe's 468\+, got 106"):
        refined([], np.zeros((0, 106, 3), np.float32), None, np.zeros(0, int))
