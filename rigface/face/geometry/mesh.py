"""Triangle meshes: boundary edges."""

import numpy as np


def boundary_loop(faces: np.ndarray) -> np.ndarray:
    """Vertices of a mesh's one boundary, in order, the mesh on the left."""
    directed = {(int(a), int(b)) for t in faces for a, b in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))}
    after = {a: b for a, b in directed if (b, a) not in directed}
    loop = [min(after)]
    while (following := after[loop[-1]]) != loop[0]:
        loop.append(following)
    return np.array(loop)
