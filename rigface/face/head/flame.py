"""Read a folder of FLAME's released files into a `Head`.

Path: a user's own copy of FLAME -> load -> `head.Head`. The files are licensed and never ship with this project.
Source: the formats of FLAME's `generic_model.pkl`, and of the landmark embedding and template that DECA adds to it.
"""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rigface.errors import MissingAsset
from rigface.face.head import safe_pickle
from rigface.face.head.head_model import Head
from rigface.types import HeadSpec

_SHAPES = 300  # the file's 400 directions are 300 of shape, then 100 of expression
_NECK, _JAW, _EYES = 1, 2, (3, 4)  # the joints after the first, which turns the whole head


def load_flame(folder: str | PathLike[str], shape: int = 100, expression: int = 50) -> Head:
    """FLAME from `generic_model.pkl`, `landmark_embedding.npy` and `head_template.obj` in one folder.

    The pickles are read as data and never executed (see `safe_pickle.py`).

    Args:
        shape, expression: how many of the file's coefficients to keep; at most 300 and 100.

    Raises:
        MissingAsset: a file is not there.
        UnsafeFile: a file asks to run something.
        ValueError: the file has fewer coefficients, or its arrays do not fit each other.
    """
    names = ("generic_model.pkl", "landmark_embedding.npy", "head_template.obj")
    model_file, embedding_file, template_file = (_there(Path(folder) / name) for name in names)
    data = model_file.read_bytes()
    model, embedding = safe_pickle.load_pickle(data), safe_pickle.load_npy(embedding_file)
    basis = np.asarray(model["shapedirs"], np.float32)
    expressions = basis.shape[2] - _SHAPES
    if not (0 < shape <= _SHAPES and 0 < expression <= expressions):
        raise ValueError(
            f"want 1-{_SHAPES} shape and 1-{expressions} expression coefficients, got {shape} and {expression}"
        )
    faces = np.asarray(model["f"], np.int64)

    def points(kind: str) -> tuple[np.ndarray, np.ndarray]:
        on, weights = embedding[f"{kind}_lmk_faces_idx"], embedding[f"{kind}_lmk_bary_coords"]
        return (faces[on[0]], weights[0]) if kind == "full" else (faces[on], weights)  # "full" has a batch of one

    uv, uv_faces = _texture_coordinates(template_file)
    return Head.from_arrays(
        HeadSpec("flame", f"sha256:{hashlib.sha256(data).hexdigest()[:12]}", shape, expression, 0),
        template=model["v_template"],
        shape_basis=basis[:, :, :shape],
        expression_basis=basis[:, :, _SHAPES : _SHAPES + expression],
        pose_basis=model["posedirs"],
        faces=faces,
        parents=(-1, *model["kintree_table"][0][1:]),  # the file's first parent is -1 as an unsigned number
        joint_regressor=_dense(model["J_regressor"]),
        skinning=model["weights"],
        neck=_NECK,
        jaw=_JAW,
        eyes=_EYES,
        landmarks=points("full"),
        inner=points("static"),
        contour=points("dynamic"),
        uv=uv,
        uv_faces=uv_faces,
    )


def _there(path: Path) -> Path:
    if not path.is_file():
        raise MissingAsset(
            f"{path} is not there; FLAME is downloaded from flame.is.tue.mpg.de after accepting its licence"
        )
    return path


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)


def _texture_coordinates(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(T, 2) float32 coordinates and (F, 3) int64 corners of a Wavefront .obj of triangles."""
    uv, corners = [], []
    for line in path.read_text("ascii", "replace").splitlines():
        kind, *words = line.split() or [""]
        if kind == "vt":
            uv.append([float(w) for w in words[:2]])
        elif kind == "f":
            corners.append([int(w.split("/")[1]) - 1 for w in words])
    if not corners or any(len(c) != 3 for c in corners):
        raise ValueError(f"{path.name}: want triangles with texture coordinates")
    return np.array(uv, np.float32), np.array(corners, np.int64)
