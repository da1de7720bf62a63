"""Mesh around the fitted face for hair, ears and neck: rings of vertices that move with the head.

Path: `warp.py` draws the face, the openings of `eye_mouth_openings.py` and these rings as one mesh.

Three rings follow the rim of the face. The first two turn rigidly with the head, behind the face, the wider the
further; at the neck they turn less and then not at all. The third stays, inside the crop's border, so that what is
pasted back has no seam. On a head that was photographed from the side the far half of a ring lies hidden behind the
face: it is pushed out beside the rim, before and after the edit by the same amount.
"""

from dataclasses import dataclass

import numpy as np
import torch

from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.rotation import to_matrix
from rigface.types import FaceParams


@dataclass(frozen=True)
class Ring:
    """A ring that turns with the head."""

    reach: float  # radius in those of the rim, from the middle of the face
    behind: float  # metres behind the rim
    min_reach: float  # the smallest radius, in those of the rim as it lies in the picture
    neck: float  # share of the head's turn at the neck
    shoulder: float  # how far below the middle, of the neck's depth, the ring is held as it is there
    normal: tuple[float, float]  # cosine of its surface to the axis of the face, for light: sides, and neck


RINGS = (Ring(1.3, 0.03, 1.12, 0.4, 1.0, (0.55, 0.9)), Ring(1.72, 0.08, 1.3, 0.0, 0.5, (0.45, 0.95)))
STILL = 2.2  # reach of the ring that stays
INSIDE = 0.95  # of the still ring's reach, at most, for those that turn
FRONTAL = (
    0.74,
    0.84,
)  # cosine of the head's turn from which rings do not cross the face
BORDER = 0.01  # of the crop's side, which the still ring keeps from its border


def ring_triangles(inner: np.ndarray, outer: np.ndarray) -> list[np.ndarray]:
    """Triangles between two rings of the same length, outside up."""
    a, b = inner, np.roll(inner, -1)
    c, d = outer, np.roll(outer, -1)
    return [np.stack([b, a, c], 1), np.stack([b, c, d], 1)]


@dataclass(frozen=True, eq=False)
class SurroundMesh:
    """The rings of one edit; K = 3 rings of R vertices, in order."""

    before: np.ndarray  # (K R, 3) crop px before the edit
    after: np.ndarray  # (K R, 3) crop px after it
    normals: torch.Tensor  # (2, K R, 3) camera frame, before and after
    neck: np.ndarray  # (R,) how much a place of the rim belongs to the neck, in [0, 1]


def surround_mesh(
    straight: torch.Tensor, rim_px: np.ndarray, both: FaceParams, size: int, skull: torch.Tensor | None = None
) -> SurroundMesh:
    """The rings around a face in a crop of `size` px, before and after: `both` is a torch batch of source and wanted.

    The rim (R, 3) is given twice: of the neutral, unturned source head in metres, and in the source in crop px. `skull`
    (6,) is its shift and turn in the change of expression; see `local_blendshapes.py`.
    """
    shift, lean = (torch.zeros(3), torch.eye(3)) if skull is None else (skull[:3], to_matrix(skull[None, 3:])[0])
    turn = to_matrix(both.head_rotation)
    middle = straight.mean(0)
    outwards = (straight - middle) * torch.tensor([1.0, 1.0, 0.0])
    neck = (-outwards[:, 1:2] / outwards[:, 1:2].abs().amax()).clamp(0, 1)
    direction = outwards / outwards.norm(dim=1, keepdim=True)
    ahead = torch.tensor([0.0, 0.0, 1.0])
    all_before, all_after, normals = [], [], []
    for ring in RINGS:
        points = middle + outwards * (ring.reach - 0.12 * neck) + (straight - middle) * ahead - ring.behind * ahead
        turned = torch.stack([points, points @ lean.mT + shift]) @ turn.mT
        held = (neck / ring.shoulder).clamp(0, 1) * (1 - ring.neck)
        cosine = ring.normal[0] + neck * (ring.normal[1] - ring.normal[0])
        facing = direction * (1 - cosine.square()).sqrt() + ahead * cosine
        normal = torch.stack([facing, facing @ lean.mT]) @ turn.mT
        normals.append(normal + held * (normal[:1] - normal))
        placed = to_crop_px(project(turned, both.camera), size)
        before, after = (placed + held * (placed[:1] - placed)).numpy()
        beside = _beside(before, rim_px, ring.min_reach)
        all_before.append(beside)
        all_after.append(after + (beside - before))
    still = _still(all_before[-1], rim_px, size)
    frontal = float(frontality(both.head_rotation)[0])
    all_after = [after + frontal * (_within(after, still, rim_px) - after) for after in all_after]
    all_before.append(still)
    all_after.append(still)
    normals.append(normals[-1][:1].expand(2, -1, -1))
    unit = torch.nn.functional.normalize(torch.cat(normals, 1), dim=-1)
    return SurroundMesh(np.concatenate(all_before), np.concatenate(all_after), unit, neck[:, 0].numpy())


def frontality(rotation: torch.Tensor) -> torch.Tensor:
    """(N,) 1 for heads (N, 3), axis-angle, turned by up to 33 degrees, 0 from 42 on, where rings cross the face."""
    share: torch.Tensor = (to_matrix(rotation)[:, 2, 2] - FRONTAL[0]) / (FRONTAL[1] - FRONTAL[0])
    return share.clamp(0, 1)


def _within(ring: np.ndarray, still: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """The ring, pulled inside the one that stays: beyond it, the preview would end in the middle of the picture."""
    middle = rim[:, :2].mean(0)
    (turn, reach), (still_turn, still_reach) = (_polar(points[:, :2] - middle) for points in (ring, still))
    room = INSIDE * np.interp(turn, still_turn, still_reach, period=2 * np.pi)
    pulled = ring.copy()
    pulled[:, :2] = middle + (ring[:, :2] - middle) * np.minimum(1, room / reach)[:, None]
    return pulled


def _polar(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arctan2(offsets[:, 1], offsets[:, 0]), np.linalg.norm(offsets, axis=1)


def _beside(ring: np.ndarray, rim: np.ndarray, min_reach: float) -> np.ndarray:
    """The ring, pushed outwards to at least `min_reach` rims from the middle."""
    middle = rim[:, :2].mean(0)
    out, edge = ring[:, :2] - middle, rim[:, :2] - middle
    reach, wanted = np.linalg.norm(out, axis=1), min_reach * np.linalg.norm(edge, axis=1)
    along = np.where(
        (reach < wanted)[:, None], edge / np.linalg.norm(edge, axis=1, keepdims=True), out / reach[:, None]
    )
    return np.concatenate([middle + along * np.maximum(reach, wanted)[:, None], ring[:, 2:]], axis=1)


def _still(ring: np.ndarray, rim: np.ndarray, size: int) -> np.ndarray:
    """(R, 3) the ring that stays: beyond the last one, inside the crop if there is room, far behind everything."""
    middle = rim[:, :2].mean(0)
    out = ring[:, :2] - middle
    border = BORDER * size
    room = np.where(out > 0, size - border - middle, middle - border) / np.maximum(np.abs(out), 1e-6)
    further = np.clip(room.min(1), 1.05, STILL / RINGS[-1].reach)
    behind = np.full((len(ring), 1), ring[:, 2].max() + size)
    return np.concatenate([middle + out * further[:, None], behind], axis=1)
