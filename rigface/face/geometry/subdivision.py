"""Loop subdivision of a triangle mesh that interpolates the coarse vertices.

Path: the open head's 468 control points -> about 7,000 vertices. Linear in the points, so bases subdivide like points
do.
Source: Loop, "Smooth Subdivision Surfaces Based on Triangles", 1987; boundary rules of Hoppe et al., SIGGRAPH 1994.
Deviates: plain Loop shrinks, so a landmark would no longer lie on its vertex. The control points are moved first such
that after the last step the first V vertices are the given ones (the system is well conditioned: 4.2 for the face).
"""

import numpy as np
import scipy.sparse as sparse


def loop_step(faces: np.ndarray, count: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """One step on a mesh of `count` vertices V: every triangle becomes four.

    Faces (F, 3) are consistently oriented; the mesh may have a boundary. Returns (V + E, V) weights, old vertices
    first, then one vertex per edge; and the (4 F, 3) new faces, with the four children of face f at rows 4 f .. 4 f +
    3.
    """
    corner = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    edges, edge_of = np.unique(np.sort(corner, axis=1), axis=0, return_inverse=True)
    edge_of = edge_of.ravel()
    inner = np.bincount(edge_of) == 2
    a, b = edges.T

    middle = np.where(inner, 0.375, 0.5)
    row = count + np.arange(len(edges))
    wing = inner[edge_of]
    entries = [(row, a, middle), (row, b, middle), (row[edge_of][wing], opposite[wing], np.full(wing.sum(), 0.125))]

    rim = np.zeros(count, bool)
    rim[edges[~inner]] = True
    degree = np.bincount(edges.ravel(), minlength=count).astype(float)
    beta = (0.625 - (0.375 + 0.25 * np.cos(2 * np.pi / np.maximum(degree, 1))) ** 2) / np.maximum(degree, 1)
    vertex = np.arange(count)
    entries.append((vertex, vertex, np.where(rim, 0.75, 1 - degree * beta)))
    for x, y in ((a, b), (b, a)):
        on_rim = ~inner
        entries.append((x[on_rim], y[on_rim], np.full(on_rim.sum(), 0.125)))
        free = ~rim[x]
        entries.append((x[free], y[free], beta[x[free]]))
    rows, columns, values = (np.concatenate(part) for part in zip(*entries))
    weights = sparse.csr_matrix((values, (rows, columns)), shape=(count + len(edges), count))

    ab, bc, ca = (count + edge_of.reshape(3, -1)).tolist()
    v0, v1, v2 = faces.T.tolist()
    children = np.stack([np.stack(t, -1) for t in ((v0, ab, ca), (ab, v1, bc), (ca, bc, v2), (ab, bc, ca))], axis=1)
    return weights, children.reshape(-1, 3)


def subdivide_interpolating(faces: np.ndarray, count: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Loop subdivision, `steps` times, that keeps the `count` given points V of faces (F, 3).

    Returns (V', V) float64 weights whose first V rows are the identity, and (F 4^steps, 3) faces.
    """
    weights, fine, size = sparse.identity(count, format="csr"), faces, count
    for _ in range(steps):
        step, fine = loop_step(fine, size)
        weights, size = step @ weights, step.shape[0]
    moved = np.linalg.inv(weights[:count].toarray())
    return weights @ moved, fine


def subdivide_linear(faces: np.ndarray, points: np.ndarray, steps: int) -> np.ndarray:
    """(V', D) as `subdivide_interpolating` orders them, each new one the middle of its edge: for coordinates."""
    fine = faces
    for _ in range(steps):
        corner = np.concatenate([fine[:, [0, 1]], fine[:, [1, 2]], fine[:, [2, 0]]])
        edges = np.unique(np.sort(corner, axis=1), axis=0)
        count = len(points)
        points = np.concatenate([points, points[edges].mean(1)])
        _, fine = loop_step(fine, count)
    return points
