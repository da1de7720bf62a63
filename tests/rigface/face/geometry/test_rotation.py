"""Rotations: signs, round trips, and gradients near singular points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rigface.face.geometry.rotation import angle_between, from_degrees, to_axis_angle, to_degrees, to_matrix

UNIT = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: math.hypot(*v) > 0.1)


def degrees(yaw=0.0, pitch=0.0, roll=0.0):
    return from_degrees(torch.tensor([yaw, pitch, roll], dtype=torch.float64))


def test_signs_of_degrees_match_the_dataset():
    nose, crown = torch.tensor([0.0, 0, 1]).double(), torch.tensor([0.0, 1, 0]).double()
    assert (degrees(yaw=30) @ nose)[0] > 0.4  # x is the person's left
    assert (degrees(pitch=30) @ nose)[1] < -0.4  # looks down
    assert (degrees(roll=30) @ crown)[0] > 0.4  # clockwise in the picture, where x is right


@settings(deadline=None)
@given(st.floats(-179, 179), st.floats(-89, 89), st.floats(-179, 179))
def test_degrees_round_trip(yaw, pitch, roll):
    got = to_degrees(degrees(yaw, pitch, roll))
    assert torch.allclose(got, torch.tensor([yaw, pitch, roll]).double(), atol=1e-6)


@settings(deadline=None)
@given(UNIT, st.sampled_from([0.0, 1e-9, 1e-5, 0.009, 0.011, 1.0, 3.0, math.pi - 1e-7]))
def test_axis_angles_round_trip(axis, angle):
    axis = torch.tensor(axis, dtype=torch.float64)
    vector = axis / axis.norm() * angle
    matrix = to_matrix(vector)
    assert torch.allclose(matrix @ matrix.T, torch.eye(3).double(), atol=1e-12)
    assert torch.allclose(to_axis_angle(matrix), vector, atol=1e-7)


def test_rotation_beyond_a_half_turn_becomes_the_short_one():
    assert torch.allclose(
        to_axis_angle(to_matrix(torch.tensor([0.0, 3 * math.pi / 2, 0]))), torch.tensor([0, -math.pi / 2, 0])
    )


def test_angle_between_is_the_angle_of_the_turn():
    a = degrees(10, 20, 30)
    assert angle_between(a, a @ degrees(yaw=40)).item() == pytest.approx(math.radians(40))
    assert angle_between(a, a @ degrees(yaw=180)).item() == pytest.approx(math.pi)
    assert angle_between(a, a).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("size", [0.0, 1e-12, 5e-3, 0.0100001, 1.0])
def test_gradients_are_finite_at_zero_rotation(size):
    vector = (torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64) * size).requires_grad_()
    assert torch.autograd.gradcheck(to_matrix, vector)
    there_and_back = torch.autograd.functional.jacobian(lambda v: to_axis_angle(to_matrix(v)), vector[0])
    assert torch.allclose(there_and_back, torch.eye(3).double(), atol=1e-6)


def test_numpy_input_gives_numpy_of_the_same_dtype():
    vector = np.array([0.1, 0.2, 0.3], np.float32)
    matrix = to_matrix(vector)
    assert isinstance(matrix, np.ndarray)
    assert matrix.dtype == np.float32
    assert np.allclose(matrix, to_matrix(torch.from_numpy(vector)).numpy())
    assert to_degrees(np.eye(3)[None].repeat(4, 0)).shape == (4, 3)
