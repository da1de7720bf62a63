import numpy as np

from rigface.face.geometry.mesh import nearest


def test_nearest_points_and_their_distances():
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0]], np.float32)
    away, index = nearest(points, np.array([[0.9, 0, 0], [0, 1.5, 0], [-3, 0, 4]], np.float32))
    assert index.tolist() == [1, 2, 0]
    assert np.allclose(away, [0.1, 0.5, 5])
