"""A head from numbers: shape, expression and pose to vertices and landmarks, in FLAME's layout.

Path: FaceParams -> Head.vertices -> `camera.project` -> `renderer.py`; Head.landmarks -> `landmark_fit.py`.
Source: FLAME (Li et al., "Learning a model of facial shape and expression from 4D scans", SIGGRAPH Asia 2017), eq. 1-5;
linear blend skinning as in SMPL (Loper et al. 2015). Written from the papers and the file formats.

One class serves FLAME (5 joints, 36 pose correctives, a 68-point embedding with a contour that moves with the yaw)
and the open head (any number of joints, any landmarks). Lengths are metres, in the head frame: x to the person's left,
y up, z out of the face; posed vertices are in the camera frame, which has the same axes.

Shape suffixes: N faces, V vertices, F triangles, J joints, L landmarks, S shape, E expression.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rigface.face.geometry import rotation
from rigface.types import FaceParams, HeadSpec

_INTEGERS = ("faces", "uv_faces", "mediapipe_points")
_CONTOUR_DEGREES = 39  # the contour table has a row per degree up to here: 0..39, then -1..-39


@dataclass(frozen=True, eq=False)
class Embedding:
    """Points on a surface."""

    vertices: Tensor  # (*B, L, 3) int64 the vertices that hold each point
    weights: Tensor  # (*B, L, 3) float32 and their shares, which sum to 1. For a contour table B is its rows.

    def points(self, surface_NVC: Tensor) -> Tensor:
        """(N, L, C) values at the points, of vertex values (N, V, C)."""
        return (surface_NVC[:, self.vertices] * self.weights[..., None]).sum(-2)


@dataclass(frozen=True, eq=False)
class Head:
    """A head model. Build it with `load_flame`, `OpenHead.load` or `from_arrays`."""

    spec: HeadSpec  # which model this is, and its sizes
    template: Tensor  # (V, 3) the mean head in metres
    shape_basis: Tensor  # (V, 3, S) metres per unit of coefficient
    expression_basis: Tensor  # (V, 3, E) likewise
    faces: Tensor  # (F, 3) int64, anticlockwise seen from outside
    parents: tuple[int, ...]  # each joint's parent; -1 for the first. Parents come before children.
    joint_regressor: Tensor  # (J, V) joints from unposed vertices
    skinning: Tensor  # (V, J) shares of each joint in each vertex, rows sum to 1
    landmarks: Embedding  # the fixed points, L of them: FLAME's 68, or the landmarker's on the open head
    pose_basis: Tensor | None = None  # (V, 3, 9 (J - 1)) correctives for R - I of all joints but the first
    jaw: int | None = None  # index of this joint, if the model has it
    neck: int | None = None
    eyes: tuple[int, ...] = ()
    inner: Embedding | None = None  # FLAME's 51 inner points
    contour: Embedding | None = None  # its table of 17 contour points by yaw (79, 17)
    uv: Tensor | None = None  # (T, 2) texture coordinates in [0, 1], v up
    uv_faces: Tensor | None = None  # (F, 3) int64
    albedo_mean: Tensor | None = None  # (V, 3) albedo per vertex, in the colours that `spec` names
    albedo_basis: Tensor | None = None  # (V, 3, A)
    texture_mean: Tensor | None = None  # (T, T, 3) the same per texel, first row at v = 1; a head has one of the two
    texture_basis: Tensor | None = None  # (T, T, 3, A)
    eyelids: Tensor | None = None  # (V, 3, 2) metres that close the left and the right lid, added after posing
    mediapipe: Embedding | None = None  # M points on the surface
    mediapipe_points: Tensor | None = None  # (M,) int64 their numbers among MediaPipe's

    def __post_init__(self) -> None:
        if self.parents[0] != -1 or any(not 0 <= p < child for child, p in enumerate(self.parents) if child):
            raise ValueError(f"Head.parents: want -1 first and parents before children, got {self.parents}")
        v, j = len(self.template), len(self.parents)
        f, s, e, a = len(self.faces), self.spec.shape, self.spec.expression, self.spec.albedo
        wanted = dict(template=(v, 3), shape_basis=(v, 3, s), expression_basis=(v, 3, e), faces=(f, 3))
        wanted |= dict(joint_regressor=(j, v), skinning=(v, j), pose_basis=(v, 3, 9 * (j - 1)), uv_faces=(f, 3))
        wanted |= dict(albedo_mean=(v, 3), albedo_basis=(v, 3, a), eyelids=(v, 3, 2))
        if self.texture_mean is not None:
            side = len(self.texture_mean)
            wanted |= dict(texture_mean=(side, side, 3), texture_basis=(side, side, 3, a))
        for name, shape in wanted.items():
            if (array := getattr(self, name)) is not None and tuple(array.shape) != shape:
                raise ValueError(f"Head.{name}: want {shape}, got {tuple(array.shape)}")
        if len(self.faces) and not 0 <= int(self.faces.min()) <= int(self.faces.max()) < v:
            raise ValueError(
                f"Head.faces: want vertices below {v}, got {int(self.faces.min())}..{int(self.faces.max())}"
            )

    @classmethod
    def from_arrays(cls, spec: HeadSpec, *, landmarks: Any, parents: Any = (-1,), **arrays: Any) -> Head:
        """A head from numpy arrays or tensors; the arguments are the class's own.

        Args:
            landmarks: (L,) vertex indices, or an `Embedding`, or a pair of arrays (vertices, weights).
            arrays: with one joint, `joint_regressor` may be left out (the joint is then the origin), and `skinning`.

        Raises:
            ValueError: an array does not fit the others; the message names it.
        """
        vertices = len(arrays["template"])
        if len(parents) == 1:
            arrays.setdefault("joint_regressor", np.zeros((1, vertices), np.float32))
            arrays.setdefault("skinning", np.ones((vertices, 1), np.float32))
        tensors: dict[str, Any] = {"landmarks": _embedding(landmarks)}
        for name, value in arrays.items():
            if name in ("inner", "contour", "mediapipe"):
                tensors[name] = None if value is None else _embedding(value)
            elif value is None or name in ("jaw", "neck", "eyes"):
                tensors[name] = value
            else:
                tensors[name] = _tensor(value, torch.int64 if name in _INTEGERS else torch.float32)
        return cls(spec=spec, parents=tuple(int(p) for p in parents), **tensors)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Head:
        """The same head elsewhere; `dtype` changes the floating-point arrays only."""

        def move(value: Any) -> Any:
            if isinstance(value, Embedding):
                return Embedding(move(value.vertices), move(value.weights))
            if not isinstance(value, Tensor):
                return value
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def neutral(self, shape_NS: Tensor, expression_NE: Tensor) -> Tensor:
        """(N, V, 3) unposed vertices in the head frame: template, shape and expression (FLAME eq. 2, without pose)."""
        shaped = torch.einsum("ns,vcs->nvc", shape_NS, self.shape_basis)
        return self.template + shaped + torch.einsum("ne,vce->nvc", expression_NE, self.expression_basis)

    def vertices(
        self,
        shape: Tensor,
        expression: Tensor,
        head_rotation: Tensor,
        jaw_rotation: Tensor | None = None,
        neck_rotation: Tensor | None = None,
        eye_rotations: Tensor | None = None,
        eyelids: Tensor | None = None,
    ) -> Tensor:
        """Posed vertices, differentiable in every argument.

        Args:
            shape: (N, S); expression: (N, E).
            head_rotation: (N, 3) axis-angle in radians, about the first joint.
            jaw_rotation, neck_rotation: (N, 3) relative to the parent joint; zero if left out.
            eye_rotations: (N, 2, 3) left, right; zero if left out.
            eyelids: (N, 2) left, right; 0 leaves them, 1 closes them. The lids move in the camera frame, as in SMIRK.

        Returns:
            (N, V, 3) metres, camera frame.

        Raises:
            ValueError: a rotation is given for a joint, or a number for lids, that the model does not have.
        """
        unposed = self.neutral(shape, expression)
        eyes = eye_rotations.unbind(1) if eye_rotations is not None else (None, None)
        given = [("head", 0, head_rotation), ("neck", self.neck, neck_rotation), ("jaw", self.jaw, jaw_rotation)]
        given += [("eye", joint, eye) for joint, eye in zip(self.eyes or (None, None), eyes)]
        by_joint = [torch.zeros_like(head_rotation) for _ in self.parents]
        for name, joint, value in given:
            if value is not None and joint is None:
                raise ValueError(f"{name} rotation: the {self.spec.name} head has no such joint, leave it out")
            if value is not None and joint is not None:
                by_joint[joint] = value
        posed = self._pose(unposed, rotation.to_matrix(torch.stack(by_joint, 1)))
        if eyelids is None:
            return posed
        if self.eyelids is None:
            raise ValueError(f"eyelids: the {self.spec.name} head has no files for its lids, leave them out")
        return posed + torch.einsum("nl,vcl->nvc", eyelids, self.eyelids)

    def of(self, params: FaceParams) -> Tensor:
        """Posed vertices of torch coefficients with one batch axis; what this head has no joint or lids for is
        ignored.
        """
        return self.vertices(
            params.shape,
            params.expression,
            params.head_rotation,
            params.jaw_rotation if self.jaw is not None else None,
            params.neck_rotation if self.neck is not None else None,
            params.eye_rotations if self.eyes else None,
            params.eyelids if self.eyelids is not None else None,
        )

    def albedo(self, coefficients_NA: Tensor) -> Tensor | None:
        """The albedo as `renderer.render` takes it, not clamped, in the colours that `spec` names: a texture
        (N, 3, T, T), or (N, V, 3) per vertex; None if this head has no basis for either. Fewer coefficients than the
        basis has are its first.
        """
        count = coefficients_NA.shape[1]
        if self.texture_mean is not None and self.texture_basis is not None:
            basis = self.texture_basis[..., :count]
            texture = self.texture_mean + torch.einsum("na,uvca->nuvc", coefficients_NA, basis)
            return texture.permute(0, 3, 1, 2)
        if self.albedo_mean is None or self.albedo_basis is None:
            return None
        return self.albedo_mean + torch.einsum("na,vca->nvc", coefficients_NA, self.albedo_basis[..., :count])

    def centre(self, vertices: Tensor) -> Tensor:
        """(N, 3) the point of posed vertices (N, V, 3) that RigFace keeps in its place: the middle of the eyes, a tenth
        of the way to the middle of the mouth's corners.

        An edit keeps the face in its place if its vertices are moved by `centre(before) - centre(after)` (RigFace's
        `align_ffhq`). ValueError if this head has no inner landmarks.
        """
        if self.inner is None:
            raise ValueError(f"the {self.spec.name} head has no inner landmarks to find its centre by")
        points = self.inner.points(vertices)  # points 18 to 68 of the 68
        eyes = (points[:, 19:25].mean(1) + points[:, 25:31].mean(1)) / 2
        mouth = (points[:, 31] + points[:, 37]) / 2
        return eyes + 0.1 * (mouth - eyes)

    def _pose(self, unposed: Tensor, turns_NJ33: Tensor) -> Tensor:
        """Pose correctives and linear blend skinning (FLAME eq. 1 and 2)."""
        joints = torch.einsum("jv,nvc->njc", self.joint_regressor, unposed)
        if self.pose_basis is not None:
            feature = (turns_NJ33[:, 1:] - torch.eye(3).to(turns_NJ33)).flatten(1)
            unposed = unposed + torch.einsum("np,vcp->nvc", feature, self.pose_basis)
        turns, places = [turns_NJ33[:, 0]], [joints[:, 0]]
        for joint, parent in enumerate(self.parents):
            if joint:
                arm = (joints[:, joint] - joints[:, parent])[..., None]
                places.append(places[parent] + (turns[parent] @ arm)[..., 0])
                turns.append(turns[parent] @ turns_NJ33[:, joint])
        turn_NJ33, place_NJ3 = torch.stack(turns, 1), torch.stack(places, 1)
        shift_NJ3 = place_NJ3 - (turn_NJ33 @ joints[..., None])[..., 0]
        blend = torch.einsum("vj,njab->nvab", self.skinning, turn_NJ33)
        return (blend @ unposed[..., None])[..., 0] + self.skinning @ shift_NJ3

    def landmarks2d(self, vertices: Tensor, head_rotation: Tensor, neck_rotation: Tensor | None = None) -> Tensor:
        """(N, 68, 3) landmarks as a detector marks them in a picture: the jaw line follows the visible contour.

        17 of the contour for this yaw, then 51 inner points, in the frame of the vertices (N, V, 3). Head and neck
        rotations (N, 3) as given to `vertices`. ValueError if this head has no contour table.
        """
        if self.contour is None or self.inner is None:
            raise ValueError(f"the {self.spec.name} head has no contour table; use landmarks.points")
        turn = rotation.to_matrix(head_rotation)
        if neck_rotation is not None:
            turn = turn @ rotation.to_matrix(neck_rotation)
        row = contour_row(turn)
        points = vertices[torch.arange(len(vertices), device=row.device)[:, None, None], self.contour.vertices[row]]
        contour = (points * self.contour.weights[row][..., None]).sum(-2)
        return torch.cat([contour, self.inner.points(vertices)], 1)


def part_of(head: Head, vertices: Tensor) -> Head:
    """A head of some vertices (U,) int64 alone, first and in this order, and of those that its joints depend on.

    It poses as the whole head does, in less time; it has no triangles, landmarks or albedo.
    """
    needed = head.joint_regressor.any(0).nonzero()[:, 0]
    rest = needed[~torch.isin(needed, vertices)]
    kept = torch.cat([vertices, rest])
    empty = Embedding(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
    return Head(
        spec=head.spec,
        template=head.template[kept],
        shape_basis=head.shape_basis[kept],
        expression_basis=head.expression_basis[kept],
        faces=head.faces[:0],
        parents=head.parents,
        joint_regressor=head.joint_regressor[:, kept],
        skinning=head.skinning[kept],
        landmarks=empty,
        pose_basis=None if head.pose_basis is None else head.pose_basis[kept],
        jaw=head.jaw,
        neck=head.neck,
        eyes=head.eyes,
        eyelids=None if head.eyelids is None else head.eyelids[kept],
    )


def align_centre(head: Head, before: FaceParams, after: FaceParams) -> Tensor:
    """(N, 3) shift of the vertices of `after` that keeps the face's centre in the place it has in `before`."""
    return head.centre(head.of(before)) - head.centre(head.of(after))


def contour_row(turn: Tensor) -> Tensor:
    """The row of FLAME's contour table for each rotation matrix (N, 3, 3): (N,) int64.

    The table is by the angle about y of the rotation taken apart as Rz Ry Rx, in whole degrees, positive if the
    person turns to their own left (confirmed by the reference figures): rows 0..39 are 0..39 degrees, rows 40..78 are
    -1..-39.
    """
    y = torch.atan2(-turn[:, 2, 0], torch.hypot(turn[:, 0, 0], turn[:, 1, 0]))
    degrees = y.detach().rad2deg().clamp(-_CONTOUR_DEGREES, _CONTOUR_DEGREES).round().long()
    return torch.where(degrees < 0, _CONTOUR_DEGREES - degrees, degrees)


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value).to(dtype)


def _embedding(value: Any) -> Embedding:
    if isinstance(value, Embedding):
        return value
    if isinstance(value, tuple):
        return Embedding(_tensor(value[0], torch.int64), _tensor(value[1], torch.float32))
    vertices = _tensor(value, torch.int64)[..., None].expand(-1, 3)  # a vertex is a point held by itself alone
    return Embedding(vertices, torch.tensor([1.0, 0.0, 0.0]).expand(len(vertices), 3))
