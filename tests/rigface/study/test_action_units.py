"""Action units, asymmetry and openings from scores and landmarks."""

import numpy as np
import pytest

from rigface.face.detection.mediapipe import BLENDSHAPES
from rigface.study.action_units import (
    ACTION_UNITS,
    LOWER_LIP,
    MOUTH_CORNERS,
    UPPER_LIP,
    action_units,
    asymmetries,
    eye_openings,
)


def scores(**values: float) -> np.ndarray:
    out = np.zeros((1, len(BLENDSHAPES)), np.float32)
    for name, value in values.items():
        out[0, BLENDSHAPES.index(name)] = value
    return out


def landmarks(mouth_gap: float = 0.0) -> np.ndarray:
    """(1, 478, 3) a mouth of width 100 and its gap."""
    points = np.zeros((1, 478, 3), np.float32)
    points[0, MOUTH_CORNERS[1], 0] = 100
    points[0, UPPER_LIP, 0] = points[0, LOWER_LIP, 0] = 50
    points[0, LOWER_LIP, 1] = mouth_gap
    return points


def test_a_unit_is_the_mean_of_its_scores_and_left_minus_right_its_asymmetry():
    given = scores(mouthSmileLeft=0.8, mouthSmileRight=0.4, browInnerUp=0.5, mouthRollLower=0.2, mouthRollUpper=0.6)
    units = action_units(given, BLENDSHAPES, landmarks())
    assert units["au12"] == pytest.approx(0.6)
    assert units["au01"] == pytest.approx(0.5)
    assert units["au28"] == pytest.approx(0.4)
    assert units["au26"] == 0
    assert asymmetries(given, BLENDSHAPES)["au12"] == pytest.approx(0.4, abs=0.01)


def test_the_units_are_numbered_upwards_and_none_is_named_that_the_network_never_moves():
    assert list(action_units(scores(), BLENDSHAPES, landmarks())) == [u.column for u in ACTION_UNITS]
    numbers = [unit.number for unit in ACTION_UNITS]
    assert numbers == sorted(numbers)
    assert not {6, 9, 11, 13, 23, 27, 29, 30, 34} & set(numbers)


def test_the_network_s_own_preference_for_a_side_is_taken_off():
    squinting = scores(eyeSquintLeft=0.475, eyeSquintRight=0.4)
    assert asymmetries(squinting, BLENDSHAPES)["au07"] == pytest.approx(0, abs=1e-6)


def test_lips_part_is_the_gap_over_the_width_up_to_wide_open():
    gaps = [float(action_units(scores(), BLENDSHAPES, landmarks(gap))["au25"][0]) for gap in (0, 7, 35, 90)]
    assert gaps == pytest.approx([0, 0.2, 1, 1])


def test_an_eye_opening_does_not_change_as_the_head_turns():
    points = np.zeros((2, 478, 3), np.float32)
    for outer, inner, upper, lower, sign in (
        (263, 362, (387, 385), (373, 380), 1),
        (33, 133, (160, 158), (144, 153), -1),
    ):
        points[0, outer, 0], points[0, inner, 0] = 40 * sign, 10 * sign
        for up, low, x in zip(upper, lower, (30, 20)):
            points[0, up], points[0, low] = (x * sign, -4.5, 0), (x * sign, 4.5, 0)
    turn = np.array([[np.cos(0.6), 0, np.sin(0.6)], [0, 1, 0], [-np.sin(0.6), 0, np.cos(0.6)]], np.float32)
    points[1] = points[0] @ turn.T
    assert eye_openings(points) == pytest.approx(np.full((2, 2), 0.3))


def test_a_missing_score_is_named():
    with pytest.raises(ValueError, match="browDownLeft"):
        action_units(np.zeros((1, 1), np.float32), ("jawOpen",), landmarks())
