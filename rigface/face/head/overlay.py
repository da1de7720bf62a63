"""Lay the open head over another head: counterparts of its landmarks and vertices, and its albedo for a head without.

Path: `Head` (FLAME) -> lay_over -> Overlay -> `flame_fit.py`; with_open_albedo -> `heads.py`.
Source: expression cloning (Noh and Neumann, SIGGRAPH 2001) finds counterparts in the same way: a similarity and the
other head's own shape bring the 51 inner landmarks together, then the nearest place counts.

Shape suffixes: V vertices and F triangles of the other head, P counterparts of landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from rigface.face.geometry.landmarks import IBUG_68, LEFT_EYE, LIPS, RIGHT_EYE
from rigface.face.geometry.procrustes import procrustes
from rigface.face.head.head_model import Embedding, Head
from rigface.face.head.open_head import OpenHead

INNER = IBUG_68[17:]  # brows, nose, eyes and lips
NEAR = 0.008  # metres: farther from the other surface a point has no counterpart
OPENING = 0.006  # metres: nearer to lids and lips the counterpart is uncertain
SHAPE_DAMPING = 4e-3  # metres over all points that a unit of a shape coefficient must be worth
_CANDIDATES = 24  # triangles tried for the nearest point of a surface


@dataclass(frozen=True, eq=False)
class Overlay:
    """Counterparts of the open head on another head at rest."""

    nearest: np.ndarray  # (V,) int64: the open head's vertex, after two subdivisions, nearest to each vertex
    is_face: np.ndarray  # (V,) bool: it is nearer than NEAR
    points: np.ndarray  # (P,) int64 control points of the open head, which are MediaPipe's landmarks
    embedding: Embedding  # (P, 3) their places on the other surface


@lru_cache(maxsize=2)
def lay_over(head: Head) -> Overlay:
    """Lay the open head over a head with 51 inner or 68 landmarks, on the CPU, or over itself; ValueError if it has
    neither.
    """
    if head.spec.name == "open":  # its vertices of fewer subdivisions come first, and its landmarks are MediaPipe's
        count, points = len(head.template), head.landmarks.vertices[:, 0].numpy()
        return Overlay(np.arange(count), np.ones(count, bool), points, head.landmarks)
    own = head.inner or Embedding(head.landmarks.vertices[17:], head.landmarks.weights[17:])  # after the jaw line's 17
    if own.vertices.shape[-2] != len(INNER):
        raise ValueError(f"the {head.spec.name} head has no 51 inner landmarks to lay the open head over")
    from scipy.spatial import cKDTree

    model = OpenHead.load()
    still = torch.zeros(1, head.spec.expression)
    control, inner = model.template.astype(np.float64), list(INNER)
    scale, turn, shift = _similarity(control[inner], own.points(head.template[None])[0].double().numpy())
    gap = scale * control[inner] @ turn.T + shift - own.points(head.template[None])[0].double().numpy()
    basis = own.points(head.shape_basis.permute(2, 0, 1)).double().numpy().reshape(head.spec.shape, -1)
    shape = np.linalg.solve(basis @ basis.T + SHAPE_DAMPING**2 * np.eye(len(basis)), basis @ gap.ravel())
    surface = head.neutral(torch.from_numpy(shape).float()[None], still)
    scale, turn, shift = _similarity(control[inner], own.points(surface)[0].double().numpy())
    vertices, faces = surface[0].double().numpy(), head.faces.numpy()

    weights, _ = model.subdivision()
    away, nearest = cKDTree(scale * (weights @ control) @ turn.T + shift).query(vertices)
    laid = scale * control @ turn.T + shift
    corners, shares, distance = _closest(laid, vertices, faces)
    rims = cKDTree(laid[list(RIGHT_EYE + LEFT_EYE + LIPS)])
    skin = np.flatnonzero((distance < NEAR * scale) & (rims.query(laid)[0] > OPENING * scale))
    skin = np.setdiff1d(skin, inner)
    embedding = Embedding(
        torch.cat([own.vertices, torch.from_numpy(corners[skin])]),
        torch.cat([own.weights, torch.from_numpy(shares[skin]).float()]),
    )
    return Overlay(nearest, away < NEAR * scale, np.concatenate([inner, skin]), embedding)


def with_open_albedo(head: Head) -> Head:
    """The head with the open head's albedo, which each vertex takes from the nearest point of the open head.

    A stand-in for a texture: neck and scalp continue the rim of the face.
    """
    model = OpenHead.load()
    at = lay_over(head).nearest
    spec = replace(head.spec, albedo=model.spec.albedo, albedo_source=f"open:{model.spec.version}", colours="linear")
    mean, basis = model.albedo_mean[at], np.moveaxis(model.albedo_axes[:, at], 0, 2)
    return replace(
        head, spec=spec, albedo_mean=torch.from_numpy(mean), albedo_basis=torch.from_numpy(np.ascontiguousarray(basis))
    )


def _similarity(left: np.ndarray, right: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation (3, 3) and shift (3,) that bring points (P, 3) nearest to others (P, 3)."""
    turn, scale = procrustes(*(torch.from_numpy(points).double()[None] for points in (left, right)))
    matrix, size = turn[0].numpy(), float(scale)
    return size, matrix, right.mean(0) - size * matrix @ left.mean(0)


def _closest(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (P, 3), shares (P, 3) and distance (P,) of the point of a surface nearest to each point (P, 3).

    Among the triangles with the nearest centres; past an edge, shares are cut at zero.
    """
    from scipy.spatial import cKDTree

    triangles = vertices[faces]
    tried = cKDTree(triangles.mean(1)).query(points, min(_CANDIDATES, len(faces)))[1]  # (P, K)
    a, b, c = np.moveaxis(triangles[tried], 2, 0)  # (P, K, 3) each
    ab, ac, ap = b - a, c - a, points[:, None] - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-20)
    second, third = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    shares = np.maximum(np.stack([1 - second - third, second, third], -1), 0)
    shares /= shares.sum(-1, keepdims=True)
    distance = np.linalg.norm((triangles[tried] * shares[..., None]).sum(2) - points[:, None], axis=-1)
    best, row = distance.argmin(1), np.arange(len(points))
    return faces[tried[row, best]], shares[row, best], distance[row, best]
