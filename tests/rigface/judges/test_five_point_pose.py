"""Pose of five points: known turns of the generic face are read back, in the signs of `rotation.py`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigface.face.geometry.rotation import from_degrees
from rigface.judges.five_point_pose import GENERIC_MM, five_point_pose


def projected(degrees, scale=2.0, shift=(300, 200)):
    """(5, 2) px of the generic face, turned."""
    turned = GENERIC_MM @ from_degrees(np.array([degrees], np.float64))[0].T
    return turned[:, :2] * (scale, -scale) + shift


@given(st.tuples(st.floats(-70, 70), st.floats(-50, 50), st.floats(-80, 80)), st.floats(0.2, 9), st.floats(-900, 900))
def test_turns_are_read_back(degrees, scale, shift):
    assert five_point_pose(projected(degrees, scale, (shift, -shift))) == pytest.approx(degrees, abs=1e-4)


def test_nose_on_the_viewers_right_is_a_turn_to_the_persons_left():
    points = projected((0, 0, 0))
    points[2, 0] += 20
    assert five_point_pose(points)[0] > 10


def test_mirrored_points_turn_the_other_way():
    yaw, pitch, roll = five_point_pose(projected((25, 8, 12)) + np.random.default_rng(0).normal(0, 1, (5, 2)))
    mirrored = (projected((25, 8, 12)) + np.random.default_rng(0).normal(0, 1, (5, 2)))[[1, 0, 2, 4, 3]] * (-1, 1)
    assert five_point_pose(mirrored) == pytest.approx((-yaw, pitch, -roll), abs=1e-6)


def test_points_that_are_all_one_give_nan():
    assert np.isnan(five_point_pose(np.full((5, 2), 7.0))).all()
