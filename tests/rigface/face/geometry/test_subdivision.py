"""Loop subdivision that interpolates its control points."""

import numpy as np

from rigface.face.geometry.subdivision import loop_step, subdivide_interpolating, subdivide_linear

PYRAMID = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1]])
POINTS = np.array([[0, 0, 1.0], [1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]])


def test_loop_step_splits_triangles_into_four():
    weights, faces = loop_step(PYRAMID, 5)
    assert weights.shape == (5 + 8, 5)
    assert len(faces) == 16
    assert np.allclose(weights.sum(1), 1)


def test_subdivision_keeps_orientation():
    weights, faces = subdivide_interpolating(PYRAMID, 5, 2)
    points = weights @ POINTS
    normals = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    assert (normals[:, 2] > 0).all()


def test_subdivision_keeps_control_points():
    weights, _ = subdivide_interpolating(PYRAMID, 5, 2)
    assert np.allclose(weights[:5], np.eye(5), atol=1e-12)


def test_vertices_of_fewer_steps_come_first():
    assert np.allclose(subdivide_linear(PYRAMID, POINTS, 2)[:13], subdivide_linear(PYRAMID, POINTS, 1))
    _, coarse = subdivide_interpolating(PYRAMID, 5, 1)
    _, fine = subdivide_interpolating(PYRAMID, 5, 2)
    assert (fine.reshape(-1, 4, 3)[:, 0, 0] == coarse[:, 0]).all()


def test_plane_stays_a_plane():
    flat = POINTS * [1, 1, 0]
    weights, _ = subdivide_interpolating(PYRAMID, 5, 2)
    assert np.allclose((weights @ flat)[:, 2], 0)


def test_texture_coordinates_stay_in_the_unit_square():
    uv = np.random.default_rng(0).random((5, 2))
    fine = subdivide_linear(PYRAMID, uv, 2)
    assert fine.min() >= uv.min()
    assert fine.max() <= uv.max()
