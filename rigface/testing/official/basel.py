"""The open head written as the Basel model's files, as Deep3DFaceRecon and RigFace read them.

Path: `OpenHead` -> write_basel -> `BFM_model_front.mat`, `similarity_Lm3D_all.mat` -> the Basel head.
Source: the layout as Deep3DFaceRecon publishes it. No data of the Basel Face Model is in here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from rigface.face.geometry.landmarks import IBUG_68
from rigface.face.head.open_head import OpenHead
from rigface.testing.official.flame import principal_blendshapes

IDENTITY, EXPRESSION, TEXTURE, NEIGHBOURS = 80, 64, 80, 8
_DECIMETRES = 10


def write_basel(folder: str | Path) -> Path:
    """Write both files: 468 vertices in decimetres, the open head's shape, blendshapes and albedo in the first columns.

    Indices count from 1 and are float32, `point_buf` is padded with one more than the last triangle, as upstream's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = OpenHead.load()
    points, faces = len(head.template), head.control_faces
    keypoints = head.template[list(IBUG_68)] * _DECIMETRES
    ones = np.ones((1, points), np.float32)
    content = {
        "meanshape": head.template.reshape(1, -1) * _DECIMETRES,
        "idBase": _columns(head.shape * _DECIMETRES, IDENTITY),
        "exBase": _columns(principal_blendshapes(head) * _DECIMETRES, EXPRESSION),
        "meantex": head.albedo_mean[:points].reshape(1, -1) * 255,
        "texBase": _columns(head.albedo[:, :points] * 255, TEXTURE),
        "tri": faces + 1,
        "point_buf": _triangles_around(faces, points) + 1,
        "tri_mask2": faces + 1,
        "keypoints": np.array([IBUG_68]) + 1,
        "frontmask2_idx": np.arange(points)[:, None] + 1,
        "skinmask": ones * head.skin[:points],
    }
    savemat(folder / "BFM_model_front.mat", {name: np.asarray(a, np.float32) for name, a in content.items()})
    savemat(folder / "similarity_Lm3D_all.mat", {"lm": (keypoints - keypoints.mean(0)).astype(float)})
    return folder


def _columns(directions: np.ndarray, count: int) -> np.ndarray:
    """(3 V, count) basis of directions (D, V, 3); the columns after them are zero."""
    basis = np.zeros((directions[0].size, count), np.float32)
    basis[:, : len(directions)] = directions.reshape(len(directions), -1).T
    return basis


def _triangles_around(faces: np.ndarray, points: int) -> np.ndarray:
    """(V, 8) triangles at each vertex, padded with the number of triangles."""
    around = np.full((points, NEIGHBOURS), len(faces))
    for point in range(points):
        own = np.nonzero((faces == point).any(1))[0][:NEIGHBOURS]
        around[point, : len(own)] = own
    return around
