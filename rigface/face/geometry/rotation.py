"""Rotations of a head as axis-angle (stored), matrices (computed with) and degrees (shown).

Path: FaceParams.head_rotation, jaw_rotation -> to_matrix -> `head_model.py`; to_degrees -> `quality.py`, the dataset.
Source: Rodrigues' formula; Shepperd, "Quaternion from rotation matrix", 1978.

Conventions: x to the person's left, y up, z out of the face; matrices act on columns, head to camera. A rotation is
R = Ry(yaw) Rx(pitch) Rz(-roll), so the face looks along R z = (sin yaw cos pitch, -sin pitch, cos yaw cos pitch).
yaw > 0: the person turns to their own left (the viewer's right). pitch > 0: looks down. roll > 0: the head tilts
clockwise as the viewer sees it.

Every function takes numpy arrays or torch tensors and returns the same; with torch, gradients are finite everywhere
except at half turns (`to_axis_angle`) and at equal rotations (`angle_between`).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any  # numpy.ndarray or torch.Tensor, the same in and out


def _numpy_too(fn: Callable[..., Tensor]) -> Callable[..., Any]:
    @wraps(fn)
    def call(*arrays: Array) -> Array:
        if any(isinstance(a, Tensor) for a in arrays):
            return fn(*arrays)
        return fn(*(torch.from_numpy(np.atleast_1d(a).copy()) for a in arrays)).numpy()

    return call


@_numpy_too
def to_matrix(axis_angle: Array) -> Array:
    """Matrices (..., 3, 3) of axis-angle vectors (..., 3) in radians, of any length, zero included."""
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.unflatten(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1), -1, (3, 3))
    square = axis_angle.square().sum(-1)[..., None, None]
    small = square < 1e-4  # the series below is then exact to 1e-10, and the root has no slope of infinity
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    first = torch.where(small, 1 - square / 6 + square.square() / 120, angle.sin() / angle)
    second = torch.where(small, 0.5 - square / 24 + square.square() / 720, (1 - angle.cos()) / safe)
    return torch.eye(3, dtype=cross.dtype, device=cross.device) + first * cross + second * (cross @ cross)


@_numpy_too
def to_axis_angle(matrix: Array) -> Array:
    """Axis-angle vectors (..., 3) in radians, of length at most pi, of rotation matrices (..., 3, 3)."""
    r = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    xx, yy, zz = r[0][0], r[1][1], r[2][2]
    a, b, c = r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]
    d, e, f = r[1][0] + r[0][1], r[0][2] + r[2][0], r[2][1] + r[1][2]
    rows = [  # 4 q q_k for k = w, x, y, z, each (w, x, y, z); the one with the largest q_k loses no digits
        torch.stack([1 + xx + yy + zz, a, b, c], -1),
        torch.stack([a, 1 + xx - yy - zz, d, e], -1),
        torch.stack([b, d, 1 - xx + yy - zz, f], -1),
        torch.stack([c, e, f, 1 - xx - yy + zz], -1),
    ]
    candidates = torch.stack(rows, -2)
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    q = torch.where(q[..., :1] < 0, -q, q)
    w, v = q[..., :1], q[..., 1:]
    square = v.square().sum(-1, keepdim=True)
    small = square < 1e-8
    sine = torch.where(small, torch.ones_like(square), square).sqrt()
    return v * torch.where(small, 2 / w.clamp(min=0.5), 2 * torch.atan2(sine, w) / sine)


@_numpy_too
def to_degrees(matrix: Array) -> Array:
    """Degrees (..., 3) of rotation matrices (..., 3, 3), head to camera.

    Yaw in (-180, 180], pitch in [-90, 90], roll in (-180, 180]; signs as in the module's text.
    """
    yaw = torch.atan2(matrix[..., 0, 2], matrix[..., 2, 2])
    pitch = torch.atan2(-matrix[..., 1, 2], torch.hypot(matrix[..., 1, 0], matrix[..., 1, 1]))
    roll = -torch.atan2(matrix[..., 1, 0], matrix[..., 1, 1])
    return torch.stack([yaw, pitch, roll], -1).rad2deg()


@_numpy_too
def from_degrees(degrees: Array) -> Array:
    """The rotation matrices of (..., 3) yaw, pitch and roll in degrees: the inverse of `to_degrees`."""
    yaw, pitch, roll = degrees.deg2rad().unbind(-1)
    zero = torch.zeros_like(yaw)
    about_y = to_matrix(torch.stack([zero, yaw, zero], -1))
    about_x = to_matrix(torch.stack([pitch, zero, zero], -1))
    about_z = to_matrix(torch.stack([zero, zero, -roll], -1))
    return about_y @ about_x @ about_z


@_numpy_too
def angle_between(a: Array, b: Array) -> Array:
    """The angle in radians, in [0, pi], that turns rotation matrix a (..., 3, 3) into b; the shapes broadcast."""
    turn = a.transpose(-1, -2) @ b
    axis = torch.stack([turn[..., i, j] - turn[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], -1)
    return torch.atan2(axis.norm(dim=-1), turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)
