"""Named expressions for heads without named axes (FLAME): the open head's blendshapes, cloned onto the other head.

FLAME's expression axes are principal components, and its jaw is a joint.

Path: HeadSpec -> `load_head` -> `fit_named_axes` -> NamedAxes -> `transfer`, `rigface sliders --head`.
Source: expression cloning (Noh and Neumann, SIGGRAPH 2001): motions are copied from one face to another at
corresponding points.

The two heads are laid over each other: a similarity at the 51 inner landmarks of the 68 that FLAME's embedding has
(Sagonas et al. 2013), then the other head's own shape at those. Each name's motion D_p of the open head is carried
over, and the coefficients e and jaw j are those that follow it best, with w_p the weight of a point and J its motion
by coefficients:

    minimise over e, j   sum_p w_p |J_p(e, j) - s R D_p|^2 + d^2 (|e|^2 + |j / JAW|^2)

The Basel head follows the same motions D_p, so a name moves the expression code of a model (`bfm_expression`) together
with the render.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch.func import jacfwd

from rigface import assets
from rigface.errors import BadEdit
from rigface.face.controls.local_blendshapes import isolated_change, skull_motion
from rigface.face.geometry.landmarks import LEFT_EYE, LIPS, RIGHT_EYE
from rigface.face.geometry.procrustes import procrustes
from rigface.face.head.head_model import Head
from rigface.face.head.heads import load_head
from rigface.face.head.open_head import OpenHead
from rigface.types import FaceParams, HeadSpec

# The landmarker's points for points 18 to 68 of the 68: brows, bridge and base of the nose, eyes, lips outside and
# inside.
INNER = (
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 6, 195, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
JAW = 0.2  # radians that count as much as one standard deviation of an axis
SHAPE_DAMPING, DAMPING = 4e-3, 2.5e-3  # metres over all points that a unit of a coefficient must be worth
SKIN = 0.25  # weight of a point of the skin; a landmark's is 1
NEAR = 0.008  # metres: farther from the other surface a point has no counterpart
OPENING = 0.006  # metres: nearer to lids and lips the counterpart is uncertain
STEPS = 3


@dataclass(frozen=True, eq=False)
class NamedAxes:
    """The motion of another head for each name."""

    names: tuple[str, ...]  # K, the open head's
    expression: np.ndarray  # (K, E) added to the coefficients for the name in full
    jaw: np.ndarray  # (K, 3) rad, added to the jaw's axis-angle
    reached: np.ndarray  # (K,) share of the open head's motion: 1 - |rest| / |motion|; 0 for a name that moves nothing
    bfm_expression: np.ndarray | None = None  # (K, 64) added to the Basel head's expression code

    def amount(self, params: FaceParams, axes: Mapping[str, float]) -> float:
        """How much of an expression, given as shares of names, the coefficients of one face have: their share along
        its direction.
        """
        direction = self._directions([axes])[0]
        return float(_joint(params) @ direction / max(direction @ direction, 1e-12))

    def set(self, params: FaceParams, asked: Sequence[tuple[Mapping[str, float], float]]) -> FaceParams:
        """Set expressions, each as shares of names and its value; all else is unchanged.

        The present values are the shares along the expressions' directions, by least squares for all that are asked
        for at once; so asking twice does what asking once does. Coefficients and expression code change alike.

        Raises:
            BadEdit: a name is none of these.
        """
        axes = [shares for shares, _ in asked]
        directions, now = self._directions(axes), _joint(params)
        present = np.linalg.lstsq(directions.T, now, rcond=1e-6)[0]
        change = np.array([value for _, value in asked]) - present
        out, count = now + change @ directions, len(params.expression)
        code = params.bfm_expression
        if code is not None and self.bfm_expression is not None:
            code = (code + change @ self._mixed(self.bfm_expression, axes)).astype(np.float32)
        return replace(
            params,
            expression=out[:count].astype(np.float32),
            jaw_rotation=(out[count:] * JAW).astype(np.float32),
            bfm_expression=code,
        )

    def _directions(self, axes: Sequence[Mapping[str, float]]) -> np.ndarray:
        return self._mixed(np.concatenate([self.expression, self.jaw / JAW], 1), axes)

    def _mixed(self, rows: np.ndarray, axes: Sequence[Mapping[str, float]]) -> np.ndarray:
        if missing := sorted({name for shares in axes for name in shares} - set(self.names)):
            raise BadEdit(f"expression.{missing[0]}: want one of {', '.join(self.names)}")
        return np.stack([sum(share * rows[self.names.index(n)] for n, share in shares.items()) for shares in axes])


def _joint(params: FaceParams) -> np.ndarray:
    """(E + 3,) float64 expression and jaw, the jaw in units of JAW."""
    return np.concatenate([params.expression, params.jaw_rotation / JAW]).astype(np.float64)


@lru_cache(maxsize=4)
def named_axes(head: HeadSpec) -> NamedAxes:
    """The named expressions of a head on this machine, and of the Basel head if that is here.

    Raises:
        MissingAsset: the head, in its version, is not here.
    """
    axes = fit_named_axes(load_head(head))
    if not assets.is_here("basel"):
        return axes
    return replace(axes, bfm_expression=fit_named_axes(load_head("basel")).expression)


def fit_named_axes(head: Head) -> NamedAxes:
    """Find the coefficients of a head that move it as the open head's names move that.

    The head is FLAME, or another with the 68 landmarks or 51 inner ones and no names of its own; ValueError if it has
    neither.
    """
    model = OpenHead.load()
    points, here = model.template.astype(np.float64), _inner(head)
    moves = np.stack([_motion(model, k) for k in range(model.spec.expression)])
    scale, turn, shift = _similarity(points[list(INNER)], here(head.template[None])[0].numpy())
    basis = here(head.shape_basis.permute(2, 0, 1)).double().numpy().reshape(head.spec.shape, -1)
    gap = scale * points[list(INNER)] @ turn.T + shift - here(head.template[None])[0].double().numpy()
    shape = np.linalg.solve(basis @ basis.T + SHAPE_DAMPING**2 * np.eye(len(basis)), basis @ gap.ravel())
    alike = torch.from_numpy(shape).float()[None]
    still = head.neutral(alike, torch.zeros(1, head.spec.expression))[0]
    scale, turn, shift = _similarity(points[list(INNER)], here(still[None])[0].numpy())
    skin, vertices = _counterparts(scale * points @ turn.T + shift, still.numpy(), scale)
    weights = np.concatenate([np.ones(len(INNER)), np.full(len(skin), SKIN)])
    wanted = scale * moves[:, [*INNER, *skin]] @ turn.T

    def posed(x: torch.Tensor) -> torch.Tensor:
        """(K, P, 3) the points with coefficients and jaw (K, E + 3), the jaw in units of JAW."""
        zero = torch.zeros(len(x), 3)
        jaw = x[:, -3:] * JAW if head.jaw is not None else None
        surface = head.vertices(alike.expand(len(x), -1), x[:, :-3], zero, jaw)
        return torch.cat([here(surface), surface[:, vertices]], 1)

    found = _follow(posed, wanted, np.sqrt(weights), head.spec.expression + 3, fixed=head.jaw is None)
    motion = (posed(found) - posed(torch.zeros(1, found.shape[1]))).double().numpy()
    norm = np.sqrt((weights[:, None] * wanted**2).sum((1, 2)))
    rest = np.sqrt((weights[:, None] * (motion - wanted) ** 2).sum((1, 2)))
    reached = np.where(norm > 1e-6, 1 - rest / np.maximum(norm, 1e-6), 0.0)
    x = found.numpy()
    return NamedAxes(model.spec.expression_names, x[:, :-3], x[:, -3:] * np.float32(JAW), reached)


def _motion(model: OpenHead, axis: int) -> np.ndarray:
    """(468, 3) what a name in full does to the open head, skull held still."""
    change = isolated_change(model.spec, {axis: 1.0})
    turn, shift = skull_motion(model.spec, change)
    moved = np.einsum("e,evi->vi", change.astype(np.float64), model.expression.astype(np.float64))
    return np.asarray(moved - np.cross(turn, model.template) - shift)


def _inner(head: Head) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from (N, V, 3) to the 51 inner landmarks (N, 51, 3)."""
    if head.inner is not None and head.inner.vertices.shape[-2] == len(INNER):
        return head.inner.points
    if head.landmarks.vertices.shape[-2] == 17 + len(INNER):
        return lambda surface: head.landmarks.points(surface)[:, 17:]
    raise ValueError(
        f"the {head.spec.name} head has neither 68 landmarks nor 51 inner ones to lay it over the open head by"
    )


def _similarity(left: np.ndarray, right: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation (3, 3) and shift (3,) that bring points (P, 3) nearest to others (P, 3)."""
    turn, scale = procrustes(*(torch.from_numpy(points).double()[None] for points in (left, right)))
    matrix, size = turn[0].numpy(), float(scale)
    return size, matrix, right.mean(0) - size * matrix @ left.mean(0)


def _counterparts(points: np.ndarray, vertices: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Control points of the open head with a vertex of the other beside them, and those vertices; none at lids and
    lips.
    """
    from scipy.spatial import cKDTree

    rims = cKDTree(points[list(RIGHT_EYE + LEFT_EYE + LIPS)])
    away, vertex = cKDTree(vertices).query(points)
    skin = np.flatnonzero((away < NEAR * scale) & (rims.query(points)[0] > OPENING * scale))
    return skin, vertex[skin]


def _follow(
    posed: Callable[[torch.Tensor], torch.Tensor], wanted: np.ndarray, root: np.ndarray, size: int, fixed: bool
) -> torch.Tensor:
    """(K, size) what moves the points (P, 3) as wanted (K, P, 3); `fixed` leaves the last three 0.

    Gauss-Newton with the Jacobian of the neutral face. A new one at each step takes sixty times as long and moves no
    name nearer by more than a hundredth.
    """
    free = size - 3 if fixed else size
    x = torch.zeros(len(wanted), size)
    still = posed(x[:1])
    motion = jacfwd(lambda one: posed(one[None])[0])(x[0]).double().numpy()
    jacobian = (motion * root[:, None, None]).reshape(-1, size)[:, :free]
    inverse = np.linalg.inv(jacobian.T @ jacobian + DAMPING**2 * np.eye(free))
    for _ in range(STEPS):
        left = ((wanted - (posed(x) - still).double().numpy()) * root[:, None]).reshape(len(wanted), -1)
        pull = left @ jacobian - DAMPING**2 * x[:, :free].double().numpy()
        x[:, :free] += torch.from_numpy(pull @ inverse).float()
    return x
