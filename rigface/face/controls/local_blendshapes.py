"""Local blendshapes: change one named expression and keep the rest of the face still.

Path: a named expression of an edit -> `transfer.py` -> coefficients -> preview, render, model.

The open head's axes are learnt from faces as they move, and on faces things move together: its `eyeBlinkLeft` closes
the other eye by two thirds and widens the jaw. That is right for fitting, and wrong for a slider. So each axis k gets
a window W_k on the face, the region it may move; the coefficients asked for are set as asked, and the others f are
chosen so that the face moves there as the axes say, and elsewhere not at all:

    minimise over f   |B_asked a + B_rest f - sum_k a_k W_k (B_k - R_k)|^2 + d^2 |f|^2

B the expression basis, a the changes asked, R_k the rigid motion of the face around the window (no expression moves the
skull). A ridge regression, in closed form, 0.3 ms. What it leaves of a motion of the skull is `skull_motion`.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from rigface.face.geometry.landmarks import LEFT_EYE, LIPS, RIGHT_EYE
from rigface.face.geometry.mesh import boundary_loop, nearest
from rigface.face.head.open_head import OpenHead
from rigface.types import HeadSpec

DAMPING = 8e-3  # metres: what a coefficient of 1 in a foreign axis must be worth
FEATURES = 8.0  # weight of a vertex of eyes, lips or chin, the parts that people notice; a cheek's is 1
JAW = (172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397)  # the contour of the chin
EYE = np.array([0.032, 0.0465])  # centre of the left eye in the head frame, metres
BONY, JAW_TOP, TEMPLES = 0.03, -0.025, 0.01  # metres: width of the bony rim; heights of the jaw's and the temples' ends


def isolated_change(head: HeadSpec, change: Mapping[int, float]) -> np.ndarray:
    """Change (E,) float32 of an expression that moves the given axes by these amounts and nothing else of the face.

    At the axes named it is the change to the last bit. A head whose surface is not known here gets its plain axes.
    """
    out = np.zeros(head.expression, np.float64)
    axes = np.array(sorted(change), int)
    out[axes] = [change[int(k)] for k in axes]
    model = OpenHead.load()
    if head == model.spec and len(axes):
        normal, targets = _products(model)
        rest = np.setdiff1d(np.arange(head.expression), axes)
        gap = (targets[np.ix_(rest, axes)] - normal[np.ix_(rest, axes)]) @ out[axes]
        out[rest] = np.linalg.solve(normal[np.ix_(rest, rest)] + DAMPING**2 * np.eye(len(rest)), gap)
    return out.astype(np.float32)


def skull_motion(head: HeadSpec, expression: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rigid motion of the skull left in a change of expression (E,): turn (3,) rad, and shift (3,) metres.

    The axes were learnt from faces whose pose is known from the faces themselves, so an open jaw lifts the whole head a
    little. Taking the motion out of the pose holds the skull still; zero on a head that is not known here.
    """
    model = OpenHead.load()
    if head != model.spec or not expression.any():
        return np.zeros(3), np.zeros(3)
    moves = np.einsum("e,evi->vi", expression.astype(np.float64), model.expression.astype(np.float64))
    found = _control_skull(model) @ moves.ravel()
    return found[3:], found[:3]


@lru_cache(maxsize=2)
def _products(model: OpenHead) -> tuple[np.ndarray, np.ndarray]:
    """(E, E) products of the axes, and (E, E) of axes (rows) and targets (columns), each vertex by its weight."""
    basis, names = model.expression.astype(np.float64), model.spec.expression_names
    sight = np.ones(len(model.template))
    sight[list(RIGHT_EYE + LEFT_EYE + LIPS + JAW)] = FEATURES
    targets = np.empty_like(basis)
    for k, name in enumerate(names):
        where = region_weights(name, model.template)
        targets[k] = where[:, None] * (basis[k] - rigid_motion(model.template, basis[k], 1 - where))
    weighted = (basis * sight[:, None]).reshape(len(names), -1)
    return weighted @ basis.reshape(len(names), -1).T, weighted @ targets.reshape(len(names), -1).T


@lru_cache(maxsize=2)
def _control_skull(model: OpenHead) -> np.ndarray:
    """(6, 3 * 468): `skull_motion_matrix` of the surface that `warp.py` moves, for moves of the control points."""
    weights, faces = model.subdivision(1)
    fit = skull_motion_matrix(weights @ model.template, boundary_loop(faces)).reshape(6, -1, 3)
    return np.asarray(np.einsum("rvi,vc->rci", fit, weights).reshape(6, -1))


def soft_tissue(points: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """(V,) how much an expression may move a vertex: 0 on the bony rim of forehead and temples, 1 inside and below.

    `points` (V, 3) are in the head frame, metres; `rim` (R,) are the vertices around the face.
    """
    away = nearest(points[rim], points)[0]
    return np.asarray(1 - _rise(points[:, 1], JAW_TOP, JAW_TOP + 0.02) * (1 - np.clip(away / BONY, 0, 1)))


def skull_motion_matrix(points: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """(6, 3 V): from moves of the vertices to the motion of the skull that fits them best on forehead and temples.

    The motion is a shift, metres, and a turn, rad; arguments as for `soft_tissue`.
    """
    bone = (1 - soft_tissue(points, rim)) * _rise(points[:, 1], TEMPLES, TEMPLES + 0.02)
    rows = _motions(points) * bone[:, None, None]
    return np.asarray(np.linalg.pinv(rows.reshape(-1, 6)) * np.repeat(bone, 3))


def region_weights(name: str, points: np.ndarray) -> np.ndarray:
    """(V,) weights in [0, 1] of the region that a blendshape moves, at points (V, 3): head frame, metres."""
    x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    side = 1.0 if name.endswith("Left") else -1.0 if name.endswith("Right") else 0.0
    if name in ("mouthLeft", "mouthRight", "jawLeft", "jawRight"):  # directions, not sides
        side = 0.0
    half = np.ones_like(x) if side == 0 else _rise(side * x, -0.008, 0.008)
    if name.startswith("eye"):
        return 1 - _rise(np.hypot((side * x - EYE[0]) / 0.026, (y - EYE[1]) / 0.022), 0.9, 1.5)
    if name.startswith("brow"):
        return np.asarray(half * _rise(y, 0.046, 0.058) * (1 - _rise(y, 0.085, 0.1)))
    if name.startswith("mouth"):
        return np.asarray(half * (1 - _rise(y, -0.008, 0.008)) * (1 - _rise(-y, 0.05, 0.075)))
    if name.startswith("jaw"):
        return 1 - _rise(y, -0.014, 0.004)
    if name.startswith("cheek"):
        return np.asarray(half * (1 - _rise(y, 0.03, 0.045)))
    return half


def rigid_motion(points: np.ndarray, moves: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(V, 3) small rigid motion of all points that fits (V, 3) moves by least squares with weights (V,)."""
    rows, root = _motions(points), np.sqrt(np.maximum(weight, 0))[:, None]
    found = np.linalg.lstsq((rows * root[..., None]).reshape(-1, 6), (moves * root).reshape(-1), rcond=None)[0]
    return np.asarray(rows @ found)


def _motions(points: np.ndarray) -> np.ndarray:
    """(V, 3, 6): how points (V, 3) move with the shift and the small turn of a rigid motion, shift + turn x point."""
    x, y, z = points.T.astype(np.float64)
    ones, zero = np.ones_like(x), np.zeros_like(x)
    return np.stack(
        [
            np.stack([ones, zero, zero, zero, z, -y], 1),
            np.stack([zero, ones, zero, -z, zero, x], 1),
            np.stack([zero, zero, ones, y, -x, zero], 1),
        ],
        axis=1,
    )


def _rise(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
