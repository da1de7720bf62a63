"""Coefficient, vertex and angle errors: known shifts in, known errors out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigface.face.geometry.rotation import from_degrees, to_axis_angle
from rigface.face.head.head_model import Head
from rigface.metrics import geometry
from rigface.types import FaceParams, HeadSpec

SPEC = HeadSpec("toy", "1", shape=2, expression=3, albedo=1)


def faces(count: int = 4, seed: int = 0) -> FaceParams:
    random = np.random.default_rng(seed)
    widths = dict(shape=2, expression=3, head_rotation=3, camera=3, albedo=1)
    arrays = {name: random.normal(size=(count, width)).astype(np.float32) for name, width in widths.items()}
    light = random.normal(size=(count, 9, 3)).astype(np.float32)
    return FaceParams(**arrays, jaw_rotation=np.zeros((count, 3), np.float32), light=light)


@pytest.fixture(scope="module")
def toy() -> Head:
    random = np.random.default_rng(3)
    return Head.from_arrays(
        SPEC,
        landmarks=np.arange(4),
        template=random.normal(size=(6, 3)),
        shape_basis=random.normal(size=(6, 3, 2)),
        expression_basis=random.normal(size=(6, 3, 3)),
        faces=np.array([[0, 1, 2], [3, 4, 5]]),
    )


def test_identical_faces_have_no_error(toy):
    same = faces()
    for errors in (geometry.coefficient_errors(same, same), geometry.distances(same, same)):
        assert {name: values.max() for name, values in errors.items()} == pytest.approx(
            dict.fromkeys(errors, 0), abs=1e-6
        )
    assert max(v.max() for v in geometry.vertex_errors_mm(toy, same, same).values()) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("group", "name"), [("shape", "shape"), ("expression", "expression"), ("light", "light")])
def test_code_shifted_by_a_constant_has_that_error_and_no_other_group_has_any(group, name):
    wanted = faces()
    measured = replace(wanted, **{name: getattr(wanted, name) + np.float32(0.25)})
    errors = geometry.coefficient_errors(measured, wanted)
    assert errors.pop(group) == pytest.approx(np.full(4, 0.25), rel=1e-5)
    assert all(v.max() == 0 for v in errors.values())


def test_absent_jaw_does_not_lower_the_expression_error():
    wanted = faces()
    off = np.zeros_like(wanted.expression)
    off[:, 0] = 1
    measured = replace(wanted, expression=wanted.expression + off)
    assert geometry.coefficient_errors(measured, wanted)["expression"] == pytest.approx(
        np.full(4, np.sqrt(1 / 3)), rel=1e-5
    )
    jawed = replace(measured, jaw_rotation=np.full((4, 3), 0.1, np.float32))
    assert geometry.coefficient_errors(jawed, jawed)["expression"] == pytest.approx(np.zeros(4))
    want = np.sqrt((1 + 3 * 0.01) / 6)
    assert geometry.coefficient_errors(jawed, wanted)["expression"] == pytest.approx(np.full(4, want), rel=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 0.01, 1.0, 30.0, 179.0])
def test_rotations_error_is_the_angle_put_in(degrees):
    start = to_axis_angle(from_degrees(np.array([[20.0, -10.0, 5.0]])))
    axis = np.array([1.0, 2.0, -2.0]) / 3
    turn = geometry.to_matrix((axis * np.radians(degrees))[None])
    stop = to_axis_angle(turn @ geometry.to_matrix(start))
    assert geometry.rotation_errors_deg(start, stop)[0] == pytest.approx(degrees, abs=1e-5)


def test_yaw_pitch_roll_errors_go_the_short_way_round():
    a = to_axis_angle(from_degrees(np.array([[10.0, 5.0, 179.0]])))
    b = to_axis_angle(from_degrees(np.array([[-10.0, 8.0, -179.0]])))
    assert geometry.angle_errors_deg(a, b)[0] == pytest.approx([20, 3, 2], abs=1e-4)


def test_vertex_errors_follow_the_basis(toy):
    wanted = faces(2)
    measured = replace(wanted, shape=wanted.shape + np.float32([0.5, 0]))
    errors = geometry.vertex_errors_mm(toy, measured, wanted)
    moved = 0.5 * toy.shape_basis[..., 0].numpy()
    want = 1000 * np.sqrt((moved**2).sum(-1).mean())
    assert errors["shape"] == pytest.approx([want, want], rel=1e-4)
    assert errors["expression"] == pytest.approx([0, 0], abs=1e-3)
    one = geometry.vertex_errors_mm(toy, measured, wanted, where=np.array([1]))["shape"][0]
    assert one == pytest.approx(1000 * np.linalg.norm(moved[1]), rel=1e-4)


def test_failed_face_is_nan_everywhere(toy):
    good = faces(1).map(lambda a: a[0])
    batch = geometry.stack([good, None])
    wanted = geometry.stack([good, good])
    found = {**geometry.distances(batch, wanted), **geometry.vertex_errors_mm(toy, batch, wanted)}
    for name, values in found.items():
        assert np.isfinite(values[0]), name
        assert np.isnan(values[1]), name
    along, asked = geometry.moves(wanted, batch, wanted)["pose"]
    assert np.isnan(along[1])
    assert np.isfinite(asked[1])


def test_stack_without_sizes_is_refused():
    with pytest.raises(ValueError, match="at least one face"):
        geometry.stack([None])


def test_scaled_detector_matrix_gives_its_rotation():
    turn = from_degrees(np.array([[25.0, -7.0, 3.0]]))[0]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = 1.7 * turn, (1, 2, 3)
    got = geometry.turn_of(matrix)
    assert got == pytest.approx(turn, abs=1e-9)
    assert np.linalg.det(geometry.turn_of(np.stack([matrix, np.eye(4)]))) == pytest.approx([1, 1])
    assert geometry.apd_mp(got[None], np.eye(3)[None])[0] == pytest.approx(
        np.degrees(torch.arccos((torch.from_numpy(turn).trace() - 1) / 2).item())
    )


def test_expression_scores_differ_by_their_mean_difference():
    a = np.zeros((2, 52))
    b = a.copy()
    b[0, :13] = 0.4
    assert geometry.aed_mp52(a, b) == pytest.approx([0.1, 0])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0, -0.5])
def test_half_an_edit_is_half_achieved(share):
    source, wanted = faces(3), faces(3, seed=1)
    half = replace(source, expression=(source.expression + share * (wanted.expression - source.expression)))
    along, asked = geometry.moves(source, half, wanted)["expression"]
    assert along / asked == pytest.approx(np.full(3, share), abs=1e-5)


def test_half_a_turn_is_half_achieved():
    start = np.zeros((1, 3), np.float32)
    face = replace(faces(1), head_rotation=start)
    goal, half = (replace(face, head_rotation=np.float32([[0, np.radians(d), 0]])) for d in (40, 20))
    along, asked = geometry.moves(face, half, goal)["pose"]
    assert along[0] / asked[0] == pytest.approx(0.5, abs=1e-5)
    assert asked[0] == pytest.approx(1600, rel=1e-4)  # degrees squared
