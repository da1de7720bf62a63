"""Boxes: intersection over union, non-maximum suppression and tiles."""

from collections.abc import Sequence

import numpy as np

from rigface.types import Detection

SAME_FACE = 0.4  # two boxes of one frame that overlap by more are one face


def landmark_box(landmarks: np.ndarray) -> np.ndarray:
    """(4,) float32 x0, y0, x1, y1 around (L, 2+) landmarks."""
    flat = landmarks[:, :2]
    return np.concatenate([flat.min(0), flat.max(0)]).astype(np.float32)


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with each of (N, 4); (N,) float in [0, 1]."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    inner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.clip(inner, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(np.asarray(box[2:], np.float64) - box[:2])
    return np.where(shared > 0, shared / np.maximum(areas - shared, 1e-9), 0.0)


def non_maximum_suppression(found: Sequence[Detection], max_iou: float = SAME_FACE) -> list[Detection]:
    """Greedy non-maximum suppression: surest first, without overlaps of more than `max_iou` with a surer one."""
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda d: (-d.score, *np.asarray(d.box).tolist())):
        if not kept or iou(detection.box, np.stack([k.box for k in kept])).max() <= max_iou:
            kept.append(detection)
    return kept


def overlaps_any(box: np.ndarray, found: Sequence[Detection], max_iou: float = SAME_FACE) -> bool:
    """True if the box overlaps a detection by more than `max_iou`."""
    return bool(found) and bool(iou(box, np.stack([f.box for f in found])).max() > max_iou)


def tile_grid(height: int, width: int, finest: float, max_tiles: int) -> list[tuple[int, int, int]]:
    """Square tiles (x, y, side) that cover a picture at one or more scales, large ones first; none for a small picture.

    Scales lie a factor of at most 4 apart, from the whole picture down to tiles of `finest` px (larger if there would
    be more than `max_tiles` of them), and neighbours overlap by a quarter: a face cut by a tile's edge is whole in
    its neighbour or in a larger tile.
    """
    longer = max(height, width)
    while True:
        steps = int(np.ceil(np.log(longer / finest) / np.log(4) - 1e-9))
        if longer < 1.5 * finest or steps < 1:
            return []
        out = []
        for k in range(1, steps + 1):
            side = round(longer * (finest / longer) ** (k / steps))
            out += [(x, y, side) for y in _starts(height, side) for x in _starts(width, side)]
        if len(out) <= max_tiles:
            return out
        finest *= 1.25


def _starts(length: int, side: int) -> list[int]:
    """Starts of tiles along one axis: evenly spread, overlapping by a quarter or more, the last ends at the end."""
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (0.75 * side))) + 1
    return [round(start) for start in np.linspace(0, length - side, count).tolist()]
