"""Fit FLAME to MediaPipe's landmarks: pose, shape, expression, jaw, lids and gaze, without a network and in batches.

Path: landmarks of the 512 px crop -> FlameGeometryFitter -> FlameGeometry -> `flame_reconstructor.py`.
Source: as `landmark_fit.py`, but Gauss-Newton steps on all unknowns together, damped by Gaussian priors, because shape
and jaw can imitate a turn of the head: two steps suffice. One shape per track, the rest eliminated first. Points are
those of the published MediaPipe embedding if the folder has it, and elsewhere those of `overlay.py`.

With the neck at rest, FLAME (Li et al. 2017, eq. 1-5) at a point p between three vertices is linear in its coefficients
c but for the jaw's rotation J: q = A_p c + (J - I) B_p c. B_p holds the share of the point that follows the jaw, about
the jaw's joint. So the normal matrix of a face is a sum of 21 constant matrices, and no matrix of points is built.

Shape suffixes: N faces, P points, S shape, E expression, K = S + E.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from rigface.face.geometry.landmarks import IBUG_68
from rigface.face.geometry.procrustes import procrustes
from rigface.face.geometry.rotation import to_axis_angle, to_matrix
from rigface.face.head.head_model import Embedding, Head
from rigface.face.head.overlay import INNER, lay_over
from rigface.face.reconstruction.landmark_fit import DEPTH_WEIGHT, frontality, refine_pose, to_crop_unit

LANDMARK_STD = 8e-4  # metres: how far a landmark is from the fitted surface
SKIN_WEIGHT = 0.5  # of a point that only `overlay.py` places, between the landmarks
JAW_STD = (0.2, 0.03, 0.03)  # rad: opening, and sideways
LID_STD = 0.5
EXPRESSION_STD = 1.5
POSE_DAMPING = 1e-2  # of a step's turn and change of size, which have no prior
MAX_JAW_STEP, MAX_TURN = 0.3, 0.2  # rad in one round
ROUNDS = 2
BATCH = 32  # faces whose normal matrices are in memory at once
MAX_GAZE = 0.6  # sine of an eye's largest turn
IRISES = (473, 468)  # the landmarks of the left and the right iris' centre
OUTER_EYES = (IBUG_68[45], IBUG_68[36])  # the corners whose distance is the unit of the residual


@dataclass(frozen=True, eq=False)
class FlameGeometry:
    """Fitted geometry of N faces, on the fitter's device."""

    shape: Tensor  # (N, S)
    expression: Tensor  # (N, E)
    rotation: Tensor  # (N, 3, 3) of the first joint, head to camera
    jaw: Tensor  # (N, 3, 3) relative to the neck
    lids: Tensor  # (N, 2) in [0, 1]
    camera: Tensor  # (N, 3) as in `FaceParams`
    eyes: Tensor | None  # (N, 2, 3) axis-angle of the eyeballs; None without eyeballs or irises
    residual: Tensor  # (N,) RMS distance of landmarks and projection, in outer-eye distances


@dataclass(frozen=True, eq=False)
class _State:
    """The unknowns of N faces as they are now."""

    coefficients: Tensor  # (N, K) shape, then expression
    jaw: Tensor  # (N, 3, 3)
    lids: Tensor  # (N, 0 or 2)
    rotation: Tensor  # (N, 3, 3) head to camera
    scale: Tensor  # (N,) crop units per metre

    @property
    def turn(self) -> Tensor:
        """(N, 3, 3) the jaw's rotation less the identity."""
        return self.jaw - torch.eye(3).to(self.jaw)

    @property
    def known(self) -> Tensor:
        """(N, 1 + K + 9) one, the coefficients, and the features of the jaw's correctives."""
        return torch.cat([torch.ones_like(self.scale[:, None]), self.coefficients, self.turn.flatten(1)], 1)

    def part(self, faces: slice) -> _State:
        return _State(*(getattr(self, f.name)[faces] for f in fields(self)))


class FlameGeometryFitter:
    """FLAME at MediaPipe's landmarks on a device, ready to fit. Stateless between calls."""

    def __init__(self, head: Head, device: str = "cpu") -> None:
        self.spec, self._head = head.spec, head
        points, weights, places = correspondence(head)
        self._points = torch.from_numpy(points).to(device)
        self._weights = weights.to(device)
        self._outer = [int(np.flatnonzero(points == corner)[0]) for corner in OUTER_EYES]
        columns = torch.cat([head.template[..., None], head.shape_basis, head.expression_basis], -1)  # (V, 3, 1 + K)
        self._joints = torch.einsum("jv,vck->jck", head.joint_regressor, columns).to(device)
        still, moving = self._parts(places, columns)
        empty = columns.new_zeros(len(columns), 3, 9)
        turning = empty if head.pose_basis is None or head.jaw is None else _of_joint(head.pose_basis, head.jaw)
        corrective, corrective_moving = self._parts(places, turning)
        if head.jaw is not None:
            share = (head.skinning[places.vertices, head.jaw] * places.weights).sum(1)
            moving = moving - share[:, None, None] * self._joints[head.jaw].cpu()
        lids = columns.new_zeros(len(points), 3, 0) if head.eyelids is None else self._parts(places, head.eyelids)[0]
        parts = (torch.cat([still, corrective], 2), torch.cat([moving, corrective_moving], 2), lids)
        means = [torch.einsum("p,pck->ck", weights, part) / weights.sum() for part in parts]
        self._still, self._moving, self._lids = (
            (part - mean).transpose(0, 1).contiguous().to(device) for part, mean in zip(parts, means)
        )  # (3, P, 1 + K + 9) twice, (3, P, 0 or 2), about the mean point: the unknown shift drops out
        self._means = [mean.to(device) for mean in means]
        size, shape = self.spec.shape + self.spec.expression, self.spec.shape
        self._free = [part[..., 1 : 1 + size].contiguous() for part in (self._still, self._moving)]
        self._fixed = [torch.cat([part[..., :1], part[..., -9:]], -1) for part in (self._still, self._moving)]
        self._shared, self._mixed, self._own = self._products()
        jaw = torch.tensor(JAW_STD if head.jaw is not None else ())
        self._sizes = [size, 4, len(jaw), lids.shape[2]]  # of a step's unknowns
        own = torch.full((size - shape,), EXPRESSION_STD**-2), torch.full((4,), POSE_DAMPING)
        self._prior = torch.cat([*own, jaw**-2, torch.full((lids.shape[2],), LID_STD**-2)]).to(device)

    def __call__(self, landmarks: Tensor, tracks: Tensor) -> FlameGeometry:
        """Fit N faces to landmarks (N, 468 or 478, 3) float32 crop px, z negative towards the camera.

        `tracks` (N,) int64; faces of one number share their shape.
        """
        count = len(landmarks)
        if count != len(tracks):
            raise ValueError(f"want one track per face, got {count} faces and {len(tracks)} tracks")
        observed = to_crop_unit(landmarks[:, self._points])
        centre = (observed * self._weights[:, None]).sum(1, keepdim=True) / self._weights.sum()
        observed = observed - centre
        members = torch.unique(tracks, return_inverse=True)[1]
        jaw = torch.eye(3).to(observed).expand(count, 3, 3)
        state = _State(
            coefficients=observed.new_zeros(count, self.spec.shape + self.spec.expression),
            jaw=jaw,
            lids=observed.new_zeros(count, self._lids.shape[2]),
            rotation=jaw,
            scale=observed.new_ones(count),
        )
        points, _ = self._at(state)
        rotation, scale = procrustes(points, observed, self._weights)
        rotation, scale = refine_pose(points, observed, rotation, scale, weights=self._weights)
        state = replace(state, rotation=rotation, scale=scale)
        for _ in range(ROUNDS):
            state = self._step(observed, state, members)
        state = replace(state, lids=state.lids.clamp(0, 1))
        points, _ = self._at(state)
        rotation, scale = refine_pose(points, observed, state.rotation, state.scale, weights=self._weights)
        state = replace(state, rotation=rotation, scale=scale)
        error = (observed - scale[:, None, None] * (points @ rotation.mT))[..., :2].square().sum(-1).mean(1).sqrt()
        eyes = (points[:, self._outer[0]] - points[:, self._outer[1]]).norm(dim=-1) * scale
        camera = self._camera(centre[:, 0], state)
        shape, expression = torch.split(state.coefficients, [self.spec.shape, self.spec.expression], dim=1)
        gaze = self._gaze(landmarks, state, camera)
        return FlameGeometry(shape, expression, rotation, state.jaw, state.lids, camera, gaze, error / eyes)

    def _parts(self, places: Embedding, values: Tensor) -> tuple[Tensor, Tensor]:
        """(P, 3, C) of vertex values (V, 3, C) at the points, and the part of them that follows the jaw."""
        at = values[places.vertices]
        shares = places.weights[..., None, None]
        still = (at * shares).sum(1)
        if self._head.jaw is None:
            return still, torch.zeros_like(still)
        return still, (at * shares * self._head.skinning[places.vertices, self._head.jaw][..., None, None]).sum(1)

    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over the points of products of two columns, by pairs of axes: (21, S S), (21, E S), (21, E E)."""
        shape = self.spec.shape
        still, moving = (part.double() for part in self._free)
        weighted = [self._weights.double()[:, None] * part / LANDMARK_STD**2 for part in (*still, *moving)]

        def pair(left: int, right: Tensor) -> Tensor:
            product: Tensor = weighted[left].T @ right
            return product + product.T

        ends = [pair(i, still[j]) / (2 if i == j else 1) for i in range(3) for j in range(i, 3)]
        ends += [pair(i, moving[j]) for i in range(3) for j in range(3)]
        ends += [pair(3 + i, moving[j]) / (2 if i == j else 1) for i in range(3) for j in range(i, 3)]
        whole = torch.stack(ends).float()
        blocks = whole[:, :shape, :shape], whole[:, shape:, :shape], whole[:, shape:, shape:]
        return tuple(block.flatten(1).contiguous() for block in blocks)  # type: ignore[return-value]

    def _at(self, state: _State) -> tuple[Tensor, Tensor]:
        """(N, P, 3) points about their mean in the head frame, and (N, P, 3) what the jaw turns of them."""
        known = state.known
        still, moving = (_columns(part, known) for part in (self._still, self._moving))
        points = still + moving @ state.turn.mT
        if state.lids.shape[1]:  # they move in the camera frame
            points = points + _columns(self._lids, state.lids) @ state.rotation
        return points, moving

    def _step(self, observed: Tensor, state: _State, members: Tensor) -> _State:
        """One damped Gauss-Newton step of shape (per track), and expression, pose, jaw and lids (per face).

        The own unknowns of a face are eliminated by the Cholesky factor of their matrix. The shape's matrix is summed
        over a track by its 21 coefficients, before it is built.
        """
        shape, tracks = self.spec.shape, int(members.max()) + 1 if len(members) else 0
        trust = frontality(state.rotation)
        total = observed.new_zeros(tracks, shape, shape)
        pull, all_pairs, halves = observed.new_zeros(tracks, shape), [], []
        for start in range(0, max(len(observed), 1), BATCH):
            part = slice(start, start + BATCH)
            pairs, mixed, own, right_shape, right_own = self._normal(observed[part], state.part(part))
            factor = torch.linalg.cholesky(own)
            half = torch.linalg.solve_triangular(factor, torch.cat([mixed, right_own[..., None]], 2), upper=False)
            weighted = half * trust[part, None, None].sqrt()
            for track in torch.unique(members[part]).tolist():
                mine = weighted[members[part] == track].flatten(0, 1)  # one product for all faces of a track
                total[track] -= mine[:, :shape].T @ mine[:, :shape]
                pull[track] -= mine[:, :shape].T @ mine[:, shape]
            pull.index_add_(0, members[part], trust[part, None] * right_shape)
            all_pairs.append(pairs)
            halves.append((factor, half))
        summed = observed.new_zeros(tracks, 21).index_add(0, members, trust[:, None] * torch.cat(all_pairs))
        total += torch.unflatten(summed @ self._shared, 1, (shape, shape)) + torch.eye(shape).to(observed)
        common = torch.cholesky_solve(pull[..., None], torch.linalg.cholesky(total))[members, :, 0]
        own_parts = []
        for (factor, half), shapes in zip(halves, torch.split(common, BATCH)):
            rest = half[..., shape] - (half[..., :shape] @ shapes[..., None])[..., 0]
            own_parts.append(torch.linalg.solve_triangular(factor.mT, rest[..., None], upper=True)[..., 0])
        solved = torch.cat([common, torch.cat(own_parts)], 1)
        coefficients, pose, jaw, lids = torch.split(solved, self._sizes, dim=1)
        return _State(
            coefficients=coefficients,
            jaw=to_matrix(_at_most(jaw, MAX_JAW_STEP)) @ state.jaw if jaw.shape[1] else state.jaw,
            lids=lids,
            rotation=state.rotation @ to_matrix(_at_most(pose[:, :3], MAX_TURN)),
            scale=state.scale * pose[:, 3].clamp(-MAX_TURN, MAX_TURN).exp(),
        )

    def _normal(self, observed: Tensor, state: _State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Normal equations in shape and own unknowns, O = E + D of them with D dense columns.

        Returns:
            (N, 21) coefficients of the shape's matrix, (N, O, S), (N, O, O) with the prior; right sides (N, S), (N, O).
        """
        shape, turn = self.spec.shape, state.turn
        depth = observed.new_tensor([1.0, 1.0, DEPTH_WEIGHT])
        metric = state.rotation.mT @ (depth[:, None] * state.rotation)
        points, moving = self._at(state)
        dense = self._dense(points, moving, state)  # (N, D, P, 3)
        known = torch.cat([torch.ones_like(state.scale[:, None]), turn.flatten(1)], 1)
        still, moved = (_columns(part, known) for part in self._fixed)
        gap = (observed @ state.rotation) / state.scale[:, None, None] - still - moved @ turn.mT
        pulled = torch.cat([gap[:, None], dense], 1) @ metric[:, None]
        pulled = pulled * (self._weights[:, None] / LANDMARK_STD**2)  # (N, 1 + D, P, 3)
        across = _rows(self._free[0], pulled) + _rows(self._free[1], pulled @ turn[:, None])
        dense_across = pulled.flatten(2) @ dense.flatten(2).mT  # (N, 1 + D, D)
        half = metric @ turn
        pairs = torch.cat([_upper(metric), half.flatten(1), _upper(turn.mT @ half)], 1)
        size = self.spec.expression
        mixed = torch.cat([torch.unflatten(pairs @ self._mixed, 1, (size, shape)), across[:, 1:, :shape]], 1)
        expression = torch.unflatten(pairs @ self._own, 1, (size, size))
        beside = across[:, 1:, shape:]
        own = torch.cat([torch.cat([expression, beside.mT], 2), torch.cat([beside, dense_across[:, 1:]], 2)], 1)
        right = torch.cat([across[:, 0, shape:], dense_across[:, 0]], 1)
        if self._head.jaw is not None:
            jaw = slice(size + 4, size + 7)
            right[:, jaw] -= self._prior[jaw] * to_axis_angle(state.jaw)
        return pairs, mixed, own + torch.diag(self._prior), across[:, 0, :shape], right

    def _dense(self, points: Tensor, moving: Tensor, state: _State) -> Tensor:
        """(N, D, P, 3) motion of the points by a turn of the head about each axis, its size, the jaw and the lids."""
        axes = torch.eye(3).to(points)
        turned = torch.linalg.cross(axes[None, :, None], points[:, None].expand(-1, 3, -1, -1), dim=3)
        columns = [turned, points[:, None]]
        if self._head.jaw is not None:
            jaw = state.jaw[:, None].expand(-1, 3, -1, -1)
            spins = torch.linalg.cross(axes[None, :, :, None].expand_as(jaw), jaw, dim=2)  # of the matrix, by axis
            correctives = (part[..., -9:] for part in (self._still, self._moving))
            still, follows = (torch.einsum("cpk,nak->napc", part, spins.flatten(2)) for part in correctives)
            columns.append(moving[:, None] @ spins.mT + still + follows @ state.turn[:, None].mT)
        if self._lids.shape[2]:
            columns.append(torch.einsum("cpl,ncd->nlpd", self._lids, state.rotation))
        return torch.cat(columns, 1)

    def _camera(self, centre: Tensor, state: _State) -> Tensor:
        """The camera that brings the mean point to the mean landmark; the head turns about its first joint."""
        known, scale = state.known, state.scale[:, None]
        still, moving, lid = self._means
        point = known @ still.T + ((known @ moving.T)[:, None] @ state.turn.mT)[:, 0]
        root = known[:, : self._joints.shape[2]] @ self._joints[0].T
        placed = ((point - root)[:, None] @ state.rotation.mT)[:, 0] + root + state.lids @ lid.T
        return torch.cat([scale, centre[:, :2] / scale - placed[:, :2]], 1)

    def _gaze(self, landmarks: Tensor, state: _State, camera: Tensor) -> Tensor | None:
        """(N, 2, 3) turns of the eyeballs that bring their foremost vertex to the iris; None if there are none."""
        head = self._head
        if "eye_rotations" not in head.spec.extras or landmarks.shape[1] <= max(IRISES):
            return None
        known, rotation = state.known[:, : self._joints.shape[2]], state.rotation
        root = known @ self._joints[0].T
        irises = to_crop_unit(landmarks[:, list(IRISES)])[..., :2] / camera[:, None, :1] - camera[:, None, 1:]
        turns = []
        for eye, iris in zip(head.eyes, irises.unbind(1)):
            own = (head.skinning[:, eye] > 0.5).nonzero()[:, 0]
            front = int(own[head.template[own, 2].argmax()])
            joint = known @ self._joints[eye].T
            columns = head.template[front, :, None], head.shape_basis[front], head.expression_basis[front]
            arm = known @ torch.cat(columns, 1).to(known).T - joint
            centre = ((joint - root)[:, None] @ rotation.mT)[:, 0] + root
            aside = (iris - centre[:, :2]) / arm.norm(dim=1, keepdim=True)
            aside = _at_most(aside, MAX_GAZE)
            ahead = (1 - aside.square().sum(1, keepdim=True)).sqrt()
            wanted = (torch.cat([aside, ahead], 1)[:, None] @ rotation)[:, 0]
            rest = arm / arm.norm(dim=1, keepdim=True)
            axis = torch.linalg.cross(rest, wanted)
            sine, cosine = axis.norm(dim=1, keepdim=True), (rest * wanted).sum(1, keepdim=True)
            turns.append(axis / sine.clamp_min(1e-6) * torch.atan2(sine, cosine))
        return torch.stack(turns, 1)


def correspondence(head: Head) -> tuple[np.ndarray, Tensor, Embedding]:
    """MediaPipe's landmarks on a head: their numbers (P,), their weights (P,) and places (P, 3)."""
    overlay = lay_over(head)
    weights = np.where(np.isin(overlay.points, INNER), 1.0, SKIN_WEIGHT).astype(np.float32)
    if head.mediapipe is None or head.mediapipe_points is None:
        return overlay.points, torch.from_numpy(weights), overlay.embedding
    published = head.mediapipe_points.numpy()
    rest = torch.from_numpy(np.flatnonzero(~np.isin(overlay.points, published)))
    places = Embedding(
        torch.cat([head.mediapipe.vertices, overlay.embedding.vertices[rest]]),
        torch.cat([head.mediapipe.weights, overlay.embedding.weights[rest]]),
    )
    weights = np.concatenate([np.ones(len(published), np.float32), weights[rest]])
    return np.concatenate([published, overlay.points[rest]]), torch.from_numpy(weights), places


def _of_joint(pose_basis: Tensor, joint: int) -> Tensor:
    """(V, 3, 9) correctives of one joint."""
    return pose_basis[..., 9 * (joint - 1) : 9 * joint]


def _columns(basis: Tensor, coefficients: Tensor) -> Tensor:
    """(N, P, 3) of a basis (3, P, C) and coefficients (N, C)."""
    flat = coefficients @ basis.flatten(0, 1).T
    return torch.unflatten(flat, 1, basis.shape[:2]).mT


def _rows(basis: Tensor, values: Tensor) -> Tensor:
    """(N, D, C) sums over points and axes of values (N, D, P, 3) times a basis (3, P, C)."""
    out: Tensor = values.mT.flatten(2) @ basis.flatten(0, 1)
    return out


def _at_most(vectors: Tensor, length: float) -> Tensor:
    """Vectors (N, C), the longer ones cut to a length."""
    shorter: Tensor = vectors * (length / vectors.norm(dim=1, keepdim=True).clamp_min(length))
    return shorter


def _upper(symmetric: Tensor) -> Tensor:
    """(N, 6) upper triangle of matrices (N, 3, 3), row by row."""
    rows, columns = torch.triu_indices(3, 3)
    return symmetric[:, rows, columns]
