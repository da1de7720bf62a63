"""Weak-perspective camera: the reference's projection and the crop's coordinate systems."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rigface.face.geometry.camera import project, to_crop_px

DECA = torch.tensor([1.0, -1.0, -1.0])  # the reference returns y and z flipped


@pytest.fixture(scope="module")
def figures(fixtures):
    return load_file(fixtures / "flame" / "io.safetensors")


def test_projection_matches_the_reference(figures):
    got = project(figures["vertices"], figures["cam"]) * DECA
    assert torch.allclose(got, figures["projected_vertices"], atol=1e-5)
    landmarks = project(figures["landmarks2d_model"], figures["cam"]) * DECA
    assert torch.allclose(landmarks[..., :2], figures["landmarks2d_projected"], atol=1e-5)


def test_crop_unit_has_y_up_and_crop_px_y_down():
    corners = np.array([[-1, 1], [1, 1], [-1, -1], [0, 0]], np.float32)
    assert to_crop_px(corners, 512).tolist() == [[0, 0], [512, 0], [0, 512], [256, 256]]
    near, far = to_crop_px(np.array([[0, 0, 1], [0, 0, -1]], np.float32), 512)
    assert near[2] < far[2]


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("axes", [2, 3])
def test_to_crop_px_takes_arrays_and_tensors_of_two_and_three_axes(kind, axes):
    unit = kind(np.random.default_rng(0).normal(size=(2, 5, axes)))
    want = unit * kind([48.0, -48.0, -48.0][:axes]) + kind([48.0, 48.0, 0.0][:axes])
    assert abs(to_crop_px(unit, 96) - want).max() < 1e-12


def test_camera_shift_moves_the_projection_by_scale_times_metres():
    points = np.zeros((1, 1, 3))
    got = project(points, np.array([[5.0, 0.02, -0.01]]))
    assert np.allclose(got, [[[0.1, -0.05, 0]]])
