"""Fit the open head to landmarks: pose, shape and expression, in closed form and in batches.

Path: landmarks of the 512 px crop and blendshape scores -> GeometryFitter -> shape, expression, rotation, camera.
Source: weighted orthogonal Procrustes (Arun 1987, with Umeyama's scale) for the first pose, then alternating
Gauss-Newton steps on the pose and ridge regression on the coefficients. The ridge is a Gaussian prior: shape ~ N(0,
1), expression ~ N(the detector's blendshape score, EXPRESSION_STD^2), which is what keeps the expression axes true to
their names.

One shape per track: the frames of a track share it, their expressions are their own, so the normal equations have an
arrow shape and the expressions are eliminated first (Schur complement). Depth from the landmarker is less exact than
its x and y, so it counts DEPTH_WEIGHT.

The normal matrix of a face is sum_ij G_ij N_ij with G = R^T diag(1, 1, w) R (3 x 3) and N_ij constant: assembling it
costs six small scaled sums instead of a 1,404 x 92 product.

Shape suffixes: N faces, T tracks, V = 468 control points, S shape, E expression, K = S + E.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rigface.face.geometry.procrustes import centred, procrustes
from rigface.face.geometry.rotation import to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.types import CROP_PX

LANDMARK_STD = 6e-4  # metres: how far a landmark is from the fitted surface on people the head was built from
EXPRESSION_STD = 0.2  # how far a fitted expression strays from the detector's score
DEPTH_WEIGHT = 0.3
ROUNDS = 3
TRUSTED_YAW = 0.6  # rad: frames turned further say less about the shape of a track
OUTER_EYES = (33, 263)  # the corners whose distance is the unit of every residual


@dataclass(frozen=True, eq=False)
class Geometry:
    """Fitted geometry of N faces, on the fitter's device."""

    shape: Tensor  # (N, S)
    expression: Tensor  # (N, E)
    rotation: Tensor  # (N, 3, 3) head to camera (x right, y up, z towards the viewer)
    scale: Tensor  # (N,) crop units per metre
    shift: Tensor  # (N, 2) crop units: the projected origin of the head
    points: Tensor  # (N, 468, 3) fitted control points in the head frame, metres
    residual: Tensor  # (N,) RMS distance of landmarks and projection, in outer-eye distances


class GeometryFitter:
    """The open head's bases on a device, ready to fit. Stateless between calls."""

    def __init__(self, head: OpenHead, device: str = "cpu") -> None:
        self.spec = head.spec
        basis = np.concatenate([head.shape, head.expression])
        self._template = torch.from_numpy(head.template).to(device)
        self._basis = torch.from_numpy(basis).to(device)
        self._centred = self._basis - self._basis.mean(1, keepdim=True)  # the unknown shift drops out
        self._products = torch.einsum("avi,bvj->ijab", self._centred.double(), self._centred.double()).float()
        self._prior = torch.ones(len(basis), device=device)
        self._prior[head.spec.shape :] = EXPRESSION_STD**-2

    def __call__(self, landmarks: Tensor, scores: Tensor, tracks: Tensor) -> Geometry:
        """Fit N faces: landmarks (N, 468, 3) float32 crop px, z negative towards the camera; scores (N, E) in [0, 1].

        Faces of one number in `tracks` (N,) share their shape. ValueError if the arrays do not agree about N.
        """
        if not len(landmarks) == len(scores) == len(tracks):
            raise ValueError(
                f"want one score row and track per face, got {len(landmarks)}, {len(scores)}, {len(tracks)}"
            )
        observed = to_crop_unit(landmarks)
        members = torch.unique(tracks, return_inverse=True)[1]
        coefficients = torch.cat([scores.new_zeros(len(scores), self.spec.shape), scores], dim=1)
        mean = coefficients
        points = self._points(coefficients)
        rotation, scale = procrustes(points, observed)
        for _ in range(ROUNDS):
            rotation, scale = refine_pose(points, observed, rotation, scale)
            coefficients = self._coefficients(observed, rotation, scale, mean, members)
            points = self._points(coefficients)
        rotation, scale = refine_pose(points, observed, rotation, scale)
        projected = scale[:, None, None] * (points @ rotation.mT)[..., :2]
        shift = (observed[..., :2] - projected).mean(1)
        error = (observed[..., :2] - projected - shift[:, None]).square().sum(-1).mean(1).sqrt()
        eyes = (points[:, OUTER_EYES[0]] - points[:, OUTER_EYES[1]]).norm(dim=-1) * scale
        shape, expression = torch.split(coefficients, [self.spec.shape, self.spec.expression], dim=1)
        return Geometry(shape, expression, rotation, scale, shift, points, error / eyes)

    def _points(self, coefficients: Tensor) -> Tensor:
        return self._template + torch.einsum("nk,kvi->nvi", coefficients, self._basis)

    def _coefficients(self, observed: Tensor, rotation: Tensor, scale: Tensor, mean: Tensor, members: Tensor) -> Tensor:
        """Ridge regression for shape (per track) and expression (per face), the pose held."""
        depth = observed.new_tensor([1.0, 1.0, DEPTH_WEIGHT])
        metric = rotation.mT @ (depth[:, None] * rotation)  # G: (N, 3, 3)
        camera = observed - observed.mean(1, keepdim=True)
        wanted = (camera @ rotation) / scale[:, None, None]  # R^T p / s
        gap = (wanted - (self._template - self._template.mean(0))) @ metric
        noise = LANDMARK_STD**-2
        right = noise * torch.einsum("nvi,kvi->nk", gap, self._centred) + self._prior * mean
        normal = noise * torch.einsum("nij,ijab->nab", metric, self._products) + torch.diag(self._prior)
        return arrow_solve(normal, right, self.spec.shape, members, frontality(rotation))


def to_crop_unit(landmarks: Tensor) -> Tensor:
    """(..., 3) crop px to crop units: x right, y up, z towards the viewer, all three on one scale."""
    half = CROP_PX / 2
    return torch.stack([landmarks[..., 0] / half - 1, 1 - landmarks[..., 1] / half, -landmarks[..., 2] / half], dim=-1)


def frontality(rotation: Tensor) -> Tensor:
    """(N,) how much a frame may say about its track's shape: 1 from the front, little in profile."""
    yaw = torch.atan2(rotation[:, 0, 2], rotation[:, 2, 2])
    return torch.exp(-((yaw / TRUSTED_YAW) ** 2)) + 0.05


def refine_pose(
    points: Tensor, observed: Tensor, rotation: Tensor, scale: Tensor, steps: int = 3, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gauss-Newton on rotation (N, 3, 3) and scale (N,) with depth counted less, which Procrustes cannot do.

    Points (N, V, 3) are in the head frame, observed (N, V, 3) in crop units. All sums over points are second moments of
    the model and of model against picture, so a step is 3 x 3 algebra. `weights` (V,) are as of `procrustes`.
    """
    q, p = centred(points, weights), centred(observed, weights)
    own, across = q.mT @ q, q.mT @ p
    d = DEPTH_WEIGHT
    for _ in range(steps):
        turned = scale[:, None, None] * rotation
        m = turned @ own @ turned.mT  # sum of m m^T, m = scale * R q
        e = turned @ across - m  # sum of m (p - m)^T
        xx, yy, zz, xy, xz, yz = (m[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
        zero = torch.zeros_like(xx)
        normal = torch.unflatten(torch.stack(
            [
                (xx + yy + d * zz) / scale**2, (d - 1) * yz / scale, (1 - d) * xz / scale, zero,
                (d - 1) * yz / scale, zz + d * yy, -d * xy, -xz,
                (1 - d) * xz / scale, -d * xy, zz + d * xx, -yz,
                zero, -xz, -yz, xx + yy,
            ],
            dim=-1,
        ), -1, (4, 4))  # fmt: skip
        right = torch.stack(
            [
                (e[:, 0, 0] + e[:, 1, 1] + d * e[:, 2, 2]) / scale,
                d * e[:, 1, 2] - e[:, 2, 1],
                e[:, 2, 0] - d * e[:, 0, 2],
                e[:, 0, 1] - e[:, 1, 0],
            ],
            dim=-1,
        )
        delta = torch.linalg.solve(normal, right)
        scale = scale + delta[:, 0]
        rotation = to_matrix(delta[:, 1:]) @ rotation
    return rotation, scale


def arrow_solve(normal: Tensor, right: Tensor, shared: int, members: Tensor, trust: Tensor) -> Tensor:
    """Solve N linear systems whose first `shared` unknowns are common to the systems of one group.

    Args:
        normal: (N, K, K) symmetric positive definite, each with the prior of all its unknowns on the diagonal.
        right: (N, K).
        shared: how many unknowns are common, in front.
        members: (N,) int64 group of each system, 0 .. T - 1.
        trust: (N,) weight of each system's say about the common unknowns.

    Returns:
        (N, K); rows of one group agree in the first `shared` columns.
    """
    ss, se, ee = normal[:, :shared, :shared], normal[:, :shared, shared:], normal[:, shared:, shared:]
    factor = torch.linalg.cholesky(ee)
    both = torch.cholesky_solve(torch.cat([se.mT, right[:, shared:, None]], dim=2), factor)
    reduced, own = both[..., :shared], both[..., shared]
    schur = ss - se @ reduced
    gradient = right[:, :shared] - (se @ own[..., None])[..., 0]
    groups = int(members.max()) + 1 if len(members) else 0
    eye = torch.eye(shared, dtype=normal.dtype, device=normal.device)
    # Each system carries the prior once; a group shall have it once in all, so it is taken out and added back.
    total = eye.repeat(groups, 1, 1).index_add(0, members, trust[:, None, None] * (schur - eye))
    pull = normal.new_zeros(groups, shared).index_add(0, members, trust[:, None] * gradient)
    common = torch.linalg.solve(total, pull)[members]
    rest = own - (reduced @ common[..., None])[..., 0]
    return torch.cat([common, rest], dim=1)
