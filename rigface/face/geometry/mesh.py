"""Triangle meshes: boundary edges, nearest points."""

import numpy as np


def boundary_loop(faces: np.ndarray) -> np.ndarray:
    """Vertices of a mesh's one boundary, in order, the mesh on the left."""
    directed = {(int(a), int(b)) for t in faces for a, b in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))}
    after = {a: b for a, b in directed if (b, a) not in directed}
    loop = [min(after)]
    while (following := after[loop[-1]]) != loop[0]:
        loop.append(following)
    return np.array(loop)


def nearest(points: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) distances and (Q,) indices of the points (P, 3) that are nearest to the queries (Q, 3).

    All P Q distances: for some thousand points this is faster than the import of a search tree.
    """
    away = sum((queries[:, None, axis] - points[None, :, axis]) ** 2 for axis in range(3))
    index = np.argmin(away, axis=1)
    return np.sqrt(np.take_along_axis(np.asarray(away), index[:, None], 1)[:, 0]), index
