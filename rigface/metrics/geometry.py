"""Errors of measured face coefficients: as numbers, millimetres and degrees.

Path: coefficients measured on an output, coefficients wanted (`transfer`) -> errors per coefficient group.
Source: the re-inference errors of DiffusionRig and RigFace ("V1", on parameters) and of vertex-based work ("V2", on the
surface); average expression and pose distance (AED, APD) of the reenactment literature, here on MediaPipe's own
scores and matrix (suffix `_mp`).

A face that could not be measured has NaN coefficients, and every error of it is NaN.
"""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch

from rigface.face.geometry.rotation import angle_between, to_axis_angle, to_degrees, to_matrix
from rigface.face.head.head_model import Head
from rigface.types import FaceParams

GROUPS = {
    "shape": ("shape",),
    "expression": ("expression", "jaw_rotation"),
    "pose": ("head_rotation",),
    "light": ("light",),
    "albedo": ("albedo",),
}


def stack(faces: Sequence[FaceParams | None], like: FaceParams | None = None) -> FaceParams:
    """Single faces (batch ()) as one batch; a missing face becomes NaN.

    `like` gives the sizes if all faces are missing; ValueError without it.
    """
    first = next((f for f in faces if f is not None), like)
    if first is None:
        raise ValueError("faces: want at least one face, or `like`")
    out: dict[str, np.ndarray | None] = {}
    for f in fields(FaceParams):
        value = getattr(first, f.name)
        if value is None or any(face is not None and getattr(face, f.name) is None for face in faces):
            out[f.name] = None
            continue
        gap = np.full_like(np.asarray(value, np.float32), np.nan)
        out[f.name] = np.stack([gap if face is None else getattr(face, f.name) for face in faces])
    return FaceParams(**out)


def group_of(params: FaceParams, group: str, jaw: bool = True) -> np.ndarray:
    """The coefficients of one group of `GROUPS` side by side: (N, D) float64; `jaw` False leaves the jaw out."""
    names = [n for n in GROUPS[group] if jaw or n != "jaw_rotation"]
    count = len(params.head_rotation)
    return np.concatenate([np.asarray(getattr(params, n), np.float64).reshape(count, -1) for n in names], axis=1)


def _both(a: FaceParams, b: FaceParams, group: str) -> tuple[np.ndarray, np.ndarray]:
    # A head without a jaw has three zeros there; counted in, they would make its expression error look smaller.
    jaw = bool(np.nan_to_num(a.jaw_rotation).any() or np.nan_to_num(b.jaw_rotation).any())
    return group_of(a, group, jaw), group_of(b, group, jaw)


def coefficient_errors(measured: FaceParams, wanted: FaceParams) -> dict[str, np.ndarray]:
    """V1: group -> (N,) root mean square over the group's coefficients, one face at a time.

    Their root mean square over the faces is the protocol's RMSE, as all faces have equally many.
    """
    out = {}
    for group in GROUPS:
        a, b = _both(measured, wanted, group)
        out[group] = np.sqrt(((a - b) ** 2).mean(1)) if a.shape[1] else np.zeros(len(a))
    return out


def vertex_errors_mm(
    head: Head, measured: FaceParams, wanted: FaceParams, where: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """V2: the wanted face with only one group replaced by what was measured, against the wanted face.

    `shape`, `expression`, `pose` -> (N,) root mean square distance in mm of the vertices in `where`, or of all.
    """

    def vertices(params: FaceParams) -> np.ndarray:
        with torch.no_grad():
            tensors = params.map(lambda a: torch.from_numpy(np.ascontiguousarray(a, np.float32)))
            found: np.ndarray = head.of(tensors).numpy()
        return found if where is None else found[:, where]

    ideal, out = vertices(wanted), {}
    for group in ("shape", "expression", "pose"):
        replaced = replace(wanted, **{name: getattr(measured, name) for name in GROUPS[group]})
        gap = vertices(replaced).astype(np.float64) - ideal
        out[group] = 1000 * np.sqrt((gap**2).sum(-1).mean(-1))
    return out


def rotation_errors_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The angle that turns one head into the other, arccos((tr(A^T B) - 1) / 2): axis-angle (N, 3) twice -> (N,)."""
    return np.asarray(np.degrees(angle_between(_matrices(a), _matrices(b))))


def angle_errors_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 3) absolute differences of yaw, pitch and roll, each in [0, 180]; axis-angle (N, 3) twice."""
    gap = to_degrees(_matrices(a)) - to_degrees(_matrices(b))
    return np.asarray(np.abs((gap + 180) % 360 - 180))


def _matrices(axis_angle: np.ndarray) -> np.ndarray:
    return np.asarray(to_matrix(np.asarray(axis_angle, np.float64)))


def turn_of(matrix: np.ndarray) -> np.ndarray:
    """The rotation in a detector's (..., 4, 4) or (..., 3, 3) matrix: scale and shear taken off by its polar factor."""
    u, _, v = np.linalg.svd(np.asarray(matrix, np.float64)[..., :3, :3])
    sign = np.linalg.det(u @ v)
    u = u * np.stack([np.ones_like(sign), np.ones_like(sign), sign], -1)[..., None, :]
    return np.asarray(u @ v)


def aed_mp52(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean absolute difference of blendshape scores (N, B), in [0, 1]: (N,)."""
    return np.asarray(np.abs(np.asarray(scores, np.float64) - np.asarray(wanted, np.float64)).mean(-1))


def apd_mp(turn: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Geodesic degrees between rotation matrices (N, 3, 3) of the detector: (N,). See `turn_of`."""
    return np.asarray(np.degrees(angle_between(np.asarray(turn, np.float64), np.asarray(wanted, np.float64))))


def distances(a: FaceParams, b: FaceParams) -> dict[str, np.ndarray]:
    """(N,) distances of faces by trait, for gain and leakage: RMS of coefficients, for `pose` geodesic degrees."""
    return {**coefficient_errors(a, b), "pose": rotation_errors_deg(a.head_rotation, b.head_rotation)}


def moves(source: FaceParams, measured: FaceParams, wanted: FaceParams) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Move of an output from its source, projected on the wanted one: (along, asked) per trait, before the division.

    `along` is the output's step projected on the wanted one, `asked` the wanted step squared: their ratio is 1 if the
    edit was done in full, 0 if nothing moved that way. Sum over faces before dividing: the ratio of a small edit is
    noise. Steps of the pose are rotation vectors in degrees.
    """
    out = {}
    for group in GROUPS:
        start, step = _both(source, wanted, group)
        if group == "pose":
            origin = _matrices(source.head_rotation).swapaxes(-1, -2)
            done, goal = (np.degrees(_turned(p.head_rotation, origin)) for p in (measured, wanted))
        else:
            jaw = start.shape[1] == group_of(source, group).shape[1]
            done, goal = group_of(measured, group, jaw) - start, step - start
        out[group] = (done * goal).sum(1), (goal**2).sum(1)
    return out


def _turned(axis_angle: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Rotation vectors (N, 3) of the turns from `origin` (already transposed); NaN stays NaN."""
    turns = _matrices(axis_angle) @ origin
    bad = ~np.isfinite(turns).all((-1, -2))
    turns[bad] = np.eye(3)
    vectors: np.ndarray = to_axis_angle(turns)
    vectors[bad] = np.nan
    return vectors
