"""Local blendshapes: exact on the named axes, still elsewhere."""

import numpy as np
import pytest

from rigface.face.controls.local_blendshapes import isolated_change, region_weights, rigid_motion
from rigface.face.head.open_head import OpenHead
from rigface.types import HeadSpec

HEAD = OpenHead.load()
NAMES = HEAD.spec.expression_names


def moved(coefficients: np.ndarray) -> np.ndarray:
    """(468,) metres by which each control point moves."""
    return np.linalg.norm(np.einsum("e,evi->vi", coefficients, HEAD.expression), axis=1)


@pytest.mark.parametrize("asked", [{"jawOpen": 0.7}, {"eyeBlinkLeft": 1.0, "jawOpen": 0.4}, {"mouthSmileLeft": -0.5}])
def test_isolated_change_sets_the_axis_exactly(asked):
    out = isolated_change(HEAD.spec, {NAMES.index(name): value for name, value in asked.items()})
    assert {name: out[NAMES.index(name)] for name in asked} == {n: np.float32(v) for n, v in asked.items()}


@pytest.mark.parametrize("name", ["eyeBlinkLeft", "eyeBlinkRight", "browOuterUpLeft", "mouthSmileRight", "jawOpen"])
def test_isolated_axis_moves_its_region_and_the_rest_less(name):
    k = NAMES.index(name)
    plain = np.eye(len(NAMES))[k]
    inside = region_weights(name, HEAD.template) > 0.5
    outside = region_weights(name, HEAD.template) < 0.01
    with_slider, without = moved(isolated_change(HEAD.spec, {k: 1.0})), moved(plain)
    spill = lambda m: m[outside].mean() / m[inside].mean()  # noqa: E731
    assert spill(with_slider) < 0.9 * spill(without)
    assert with_slider[inside].max() > 0.7 * without[inside].max()


def test_left_and_right_changes_mirror_each_other():
    left = moved(isolated_change(HEAD.spec, {NAMES.index("eyeBlinkLeft"): 1.0}))
    right = moved(isolated_change(HEAD.spec, {NAMES.index("eyeBlinkRight"): 1.0}))
    assert np.allclose(left[HEAD.mirror], right, atol=2e-4)


def test_unknown_head_gets_plain_axes():
    other = HeadSpec("flame", "1", 100, 3, 50, ("a", "b", "c"))
    assert isolated_change(other, {1: 0.5}).tolist() == [0, 0.5, 0]


def test_empty_change_is_zero():
    assert not isolated_change(HEAD.spec, {}).any()


def test_rigid_motion_is_recovered():
    points = np.random.default_rng(0).normal(size=(50, 3))
    turn, shift = np.array([0.01, -0.02, 0.03]), np.array([0.1, 0.2, 0.3])
    moves = np.cross(turn, points) + shift
    assert np.allclose(rigid_motion(points, moves, np.ones(50)), moves, atol=1e-12)
