"""What a detector is, how to get one by name, and how to look at a run of frames without paying twice.

Path: Frame.image -> Detector -> [Detection] -> Tracker and align. `mediapipe_detector.py`, `insightface_detector.py` and
`scrfd_detector.py` implement the Protocol; everything behind it knows faces only as `Detection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rigface.types import Detection, DetectorSpec

SAME_FACE = 0.4  # two boxes of one frame that overlap by more are one face


class Detector(Protocol):
    """Finds the faces of one picture. Has no memory: the same picture gives the same answer."""

    spec: DetectorSpec

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        """The faces, surest first.

        Args:
            image: (H, W, 3) uint8 RGB.
            second_look: whether to search for small faces piece by piece, which costs many times a plain look. None:
                as the detector was built (`small_faces`), or else where the plain look shows nobody.
            before: what the frame before showed. Faces lost since are looked for where they were, at little cost, and
                scores of faces still there are carried over. Without it, every face is scored anew.
        """


def load_detector(name: str = "mediapipe", **options: Any) -> Detector:
    """A detector by name, ready to use.

    Args:
        name: `mediapipe` (478 points, 52 expression scores; the default), `insightface` (106 points; needs a model pack) or
            `scrfd` (the pack's faces, MediaPipe's points and scores).
        options: those of the class: `small_faces`, `faces`, `folder` ..., see `MediapipeDetector`, `InsightfaceDetector`.

    Raises:
        MissingAsset: its weights are not on this machine.
        ValueError: no detector has this name.
    """
    if name == "mediapipe":
        from rigface.face.detection.mediapipe import MediapipeDetector

        return MediapipeDetector(**options)
    if name == "insightface":
        from rigface.face.detection.insightface import InsightfaceDetector

        return InsightfaceDetector(**options)
    if name == "scrfd":
        from rigface.face.detection.scrfd import ScrfdDetector

        return ScrfdDetector(**options)
    raise ValueError(f"no detector is called {name!r}; there are mediapipe, insightface, scrfd")


class Watch:
    """Looks at consecutive frames of one chunk: a second look every n-th frame at most, and memory in between.

    One Watch per chunk, fed every frame in order, gives the same answer on every machine and every retry.

    Args:
        detector: any Detector.
        every: frames between two full looks. On the frames between, small faces and faces that drop out are looked for
            only where they just were, and scores are carried over.
    """

    def __init__(self, detector: Detector, every: int = 15) -> None:
        if every < 1:
            raise ValueError(f"every: want at least 1, got {every}")
        self._detector, self._every = detector, every
        self._count = 0
        self._before: list[Detection] = []

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """The faces of the next frame, surest first."""
        if self._count % self._every == 0:
            found = self._detector(image)
        else:
            found = self._detector(image, second_look=False, before=self._before)
        self._count += 1
        self._before = found
        return found


def box_of(landmarks: np.ndarray) -> np.ndarray:
    """(4,) float32 x0, y0, x1, y1 around (L, 2+) landmarks."""
    flat = landmarks[:, :2]
    return np.concatenate([flat.min(0), flat.max(0)]).astype(np.float32)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with each of (N, 4); (N,) float in [0, 1]."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    inner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.clip(inner, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(np.asarray(box[2:], np.float64) - box[:2])
    return np.where(shared > 0, shared / np.maximum(areas - shared, 1e-9), 0.0)


def distinct(found: Sequence[Detection], shared: float = SAME_FACE) -> list[Detection]:
    """Surest first, without those that overlap a surer one by more than `shared` (greedy non-maximum suppression)."""
    kept: list[Detection] = []
    for one in sorted(found, key=lambda d: (-d.score, *np.asarray(d.box).tolist())):
        if not kept or overlap(one.box, np.stack([k.box for k in kept])).max() <= shared:
            kept.append(one)
    return kept


def among(box: np.ndarray, found: Sequence[Detection], shared: float = SAME_FACE) -> bool:
    """Whether this face has been found already."""
    return bool(found) and bool(overlap(box, np.stack([f.box for f in found])).max() > shared)


def tile_grid(height: int, width: int, finest: float, limit: int) -> list[tuple[int, int, int]]:
    """Square tiles (x, y, side) that cover a picture at one or more scales, large ones first; none for a small picture.

    Scales lie a factor of at most 4 apart, from the whole picture down to tiles of `finest` px (more where there would be
    more than `limit` of them), and neighbours overlap by a quarter: a face cut by a tile's edge is whole in its neighbour
    or in a larger tile.
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
        if len(out) <= limit:
            return out
        finest *= 1.25


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin along one axis: evenly spread, overlapping by a quarter or more, the last one ends at the end."""
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (0.75 * side))) + 1
    return np.linspace(0, length - side, count).round().astype(int).tolist()
