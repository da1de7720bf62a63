"""Face tracking across frames, and across chunks of frames.

Path: Frame.image and its [Detection] -> Tracker -> a track id per detection. Chunks are tracked on their own,
anywhere and in any order; a closing pass gives `number_tracks` the summaries of each chunk's tracks and gets ids for
the whole video.

A face continues the track that it costs least to continue (Hungarian assignment). The cost adds its distance from the
track's predicted position and how much its size, the pattern of its landmarks and its colours changed; each term is
scaled so that 1 is a large change. Measured between consecutive sampled frames of 55 clips: colours change by less
than 0.15 in 99 of 100 steps, between two people by more than 0.19 in 99 of 100 pairs. Refusing is cheap (two tracks
that the identity pass calls one person), accepting wrongly is not, so the limit is strict.

A cut ends every track. It is detected on a 48-pixel picture of the frame: nothing correlates, neither in place nor
shifted, and the colours are others. Brightness plays no part, so a flash is no cut, and a picture that is all one
grey (a flash, a fade through black) is not judged at all: the next one is compared with the last that was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import cv2
import numpy as np

from rigface.face.detection.boxes import iou
from rigface.face.geometry import alignment
from rigface.types import DLIB_SAME_PERSON, Detection

MAX_COST = 2.8  # cost above which a face is a new track
COLOUR, SHAPE, SIZE, WAY = 0.2, 0.25, 0.3, 0.5  # changes that cost 1
THUMB_PX = 16
MAX_GAP = 12  # frames a face may be unseen and still continue its track, within a chunk and across its border


class Tracker:
    """Gives consecutive frames' detections track ids, from 0. One Tracker per chunk, fed every sampled frame in order.

    A face may be unseen for `max_gap` frames and still continue its track; about a second's worth is a good choice.
    """

    def __init__(self, max_gap: int = MAX_GAP) -> None:
        self._max_gap = max_gap
        self._frame = -1
        self._next = 0
        self._live: list[_Track] = []
        self._scene: np.ndarray | None = None
        self.cuts: list[int] = []  # the positions, among the frames given, of the first frame after each cut

    def update(self, image: np.ndarray, detections: Sequence[Detection]) -> list[int]:
        """Track ids of the detections in the next frame, (H, W, 3) uint8 RGB; a face keeps the id of earlier frames."""
        self._frame += 1
        if (scene := _scene_of(image)) is not None:
            before, self._scene = self._scene, scene
            if before is not None and before.shape == scene.shape and is_cut(before, scene):
                self._live = []
                self.cuts.append(self._frame)
        self._live = [t for t in self._live if self._frame - t.frame <= self._max_gap + 1]
        appearances = [_Appearance(image, detection) for detection in detections]
        ids = [-1] * len(appearances)
        for track, k in self._pairs(appearances):
            self._live[track].follow(appearances[k], self._frame)
            ids[k] = self._live[track].id
        for k, appearance in enumerate(appearances):
            if ids[k] < 0:
                self._live.append(_Track(self._next, appearance, self._frame))
                ids[k] = self._next
                self._next += 1
        return ids

    def _pairs(self, appearances: list[_Appearance]) -> list[tuple[int, int]]:
        if not appearances or not self._live:
            return []
        costs = np.array([[t.cost(s, self._frame) for s in appearances] for t in self._live])
        # Anything over the limit is as good as no pair, so that it cannot push a good pair out of the optimum.
        tracks, sights = _cheapest_pairs(np.minimum(costs, MAX_COST))
        return [(int(t), int(s)) for t, s in zip(tracks, sights) if costs[t, s] < MAX_COST]


def _cheapest_pairs(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the assignment of least cost."""
    few, many = sorted(costs.shape)
    if few <= 2 and many <= 4:  # as in most videos, where the import below would take longer than the tracking
        wide = costs if costs.shape == (few, many) else costs.T
        first = np.arange(few)
        second = np.array(min(permutations(range(many), few), key=lambda chosen: wide[first, chosen].sum()))
        return (first, second) if wide is costs else (second, first)
    from scipy.optimize import linear_sum_assignment  # a third of a second

    rows, columns = linear_sum_assignment(costs)
    return rows, columns


class _Appearance:
    """Compared features of one detection: position, size, pattern of landmarks, colours."""

    def __init__(self, image: np.ndarray, detection: Detection) -> None:
        box = np.asarray(detection.box, np.float64)
        self.size = max(float(max(box[2] - box[0], box[3] - box[1])), 1e-3)
        self.centre = (box[:2] + box[2:]) / 2
        points = np.asarray(detection.landmarks, np.float64)[:: max(len(detection.landmarks) // 60, 1), :2]
        points = points - points.mean(0)
        self.pattern = points / max(float(np.sqrt((points**2).sum(1).mean())), 1e-6)
        step = max(int(self.size / 64), 1)  # every pixel of a large face would be averaged away again
        thumb = alignment.crop(image[::step, ::step], alignment.frame_to_crop(box / step, THUMB_PX), THUMB_PX).astype(
            np.float32
        )
        self.colours = thumb / (float((thumb * _CENTRE).sum()) / 3 + 20)  # times a constant: brightness plays no part


class _Track:
    def __init__(self, number: int, appearance: _Appearance, frame: int) -> None:
        self.id, self.frame = number, frame
        self._last = appearance
        self._colours = appearance.colours
        self._speed = np.zeros(2)  # px per frame

    def cost(self, appearance: _Appearance, frame: int) -> float:
        gap = frame - self.frame
        size = np.sqrt(self._last.size * appearance.size)
        way = np.linalg.norm(appearance.centre - self._last.centre - self._speed * min(gap, 4)) / size
        colour = float((np.abs(appearance.colours - self._colours) * _CENTRE).sum()) / 3
        shape = float(np.sqrt(((appearance.pattern - self._last.pattern) ** 2).sum(1).mean()))
        patience = 1 + 0.2 * (gap - 1)  # the longer unseen, the more may have changed
        return float(
            2 * way / (way + WAY * patience)  # 1 at WAY and never more than 2: a jump alone does not forbid
            + colour / COLOUR
            + shape / (SHAPE * patience)
            + abs(np.log(appearance.size / self._last.size)) / (SIZE * patience)
        )

    def follow(self, appearance: _Appearance, frame: int) -> None:
        step = (appearance.centre - self._last.centre) / (frame - self.frame)
        self._speed = 0.5 * self._speed + 0.5 * step
        self._colours = 0.7 * self._colours + 0.3 * appearance.colours
        self._last, self.frame = appearance, frame


def _bell(size: int, spread: float) -> np.ndarray:
    away = (np.arange(size) - (size - 1) / 2) ** 2
    bell = np.exp(-(away[:, None] + away) / (2 * spread**2))[..., None]
    return np.asarray((bell / bell.sum()).astype(np.float32))


_CENTRE = _bell(THUMB_PX, 5)  # the face counts more than the wall behind it


def _scene_of(image: np.ndarray) -> np.ndarray | None:
    """A frame as about 48 x 27 float32 RGB; None if it is all one grey."""
    height, width = image.shape[:2]
    step = max(max(height, width) // 128, 1)
    size = (48, 27) if width > height else (27, 48) if height > width else (36, 36)
    scene = cv2.resize(image[::step, ::step], size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return scene if scene.mean(-1).std() > 4 else None


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """True if two thumbnails (h, w, 3) float32 of one shape show two scenes.

    Measured on 55 clips at full and at a quarter of their frame rate: the three cuts among them reach at most 0.21 and
    1.09, other frames are at or above 0.3 or, in a fast pan, at 0.11 and 1.19.
    """
    a, b = (_equalized(p) for p in (before, after))
    in_place = float((a * b).mean())
    if in_place >= 0.3:
        return False
    window = np.outer(np.hanning(a.shape[0] + 2)[1:-1], np.hanning(a.shape[1] + 2)[1:-1])
    a, b = a * window, b * window
    shifted = np.fft.irfft2(np.fft.rfft2(a) * np.conj(np.fft.rfft2(b)), s=a.shape).max()
    shifted = float(shifted / np.sqrt((a**2).sum() * (b**2).sum() + 1e-9))
    return _shared_colours(before, after) + shifted / 2 < 1.13


def _equalized(picture: np.ndarray) -> np.ndarray:
    """Its grey levels with mean 0 and spread about 1."""
    grey = picture.mean(-1) - picture.mean()
    return np.asarray(grey / (grey.std() + 2))


def _shared_colours(before: np.ndarray, after: np.ndarray) -> float:
    """Intersection of the two pictures' histograms of chromaticity, in [0, 1]; brightness plays no part."""
    counts = []
    for picture in (before, after):
        share = picture[..., :2] / (picture.sum(-1, keepdims=True) + 30)
        bins = np.minimum((share * 24).astype(int), 24)
        count = np.bincount((bins[..., 0] * 25 + bins[..., 1]).ravel(), minlength=625).reshape(25, 25)
        soft = cv2.GaussianBlur(count.astype(np.float64), (0, 0), 1)  # a colour on the edge of two bins is in both
        counts.append(soft / soft.sum())
    return float(np.minimum(*counts).sum())


@dataclass(frozen=True, eq=False)
class TrackSummary:
    """Summary of one track of one chunk, for the closing pass."""

    track: int  # its id in the chunk
    first_s: float  # presentation time of its first sampled frame
    last_s: float  # of its last
    first_box: np.ndarray  # (4,) frame px, on the first frame
    last_box: np.ndarray  # (4,) frame px, on the last
    identity: np.ndarray | None = None  # (D,) mean identity vector; None if none was computed


def join_tracks(
    left: Sequence[TrackSummary], right: Sequence[TrackSummary], max_gap_s: float, same_person: float = DLIB_SAME_PERSON
) -> dict[int, int]:
    """Match tracks of a chunk with those of the chunk before it: right id -> left id, each at most once.

    Two tracks may be one if the pause between them is short (at most `max_gap_s`: one frame more than the tracker's
    `max_gap`) and their boxes at the border lie within a face of each other. If both have an identity vector, it
    decides: nearer than `same_person`. If one has none, the boxes must overlap by half.
    """
    never = 1e6
    costs = np.full((len(right), len(left)), never)
    for i, after in enumerate(right):
        for k, before in enumerate(left):
            if not 0 < after.first_s - before.last_s <= max_gap_s + 1e-6:
                continue
            shared = float(iou(before.last_box, after.first_box[None])[0])
            if before.identity is not None and after.identity is not None:
                distance = float(np.linalg.norm(before.identity - after.identity))
                if distance < same_person and _near(before.last_box, after.first_box):
                    costs[i, k] = distance / same_person + 1 - shared
            elif shared > 0.5:
                costs[i, k] = 2 - shared
    rows, columns = _cheapest_pairs(costs) if costs.size else ((), ())
    return {right[i].track: left[k].track for i, k in zip(rows, columns) if costs[i, k] < never}


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    """True if two boxes lie within one face of each other and one is at most twice as large."""
    sizes = max(a[2] - a[0], a[3] - a[1]), max(b[2] - b[0], b[3] - b[1])
    way = np.abs((a[:2] + a[2:] - b[:2] - b[2:]) / 2).max()
    return bool(way < max(sizes) and max(sizes) < 2 * min(sizes))


def number_tracks(
    chunks: Sequence[Sequence[TrackSummary]], max_gap_s: float, same_person: float = DLIB_SAME_PERSON
) -> list[dict[int, int]]:
    """Track ids for a whole video: chunk by chunk, chunk's id -> video's id, counted from 0 in order of appearance.

    `chunks` are the tracks of each chunk in the video's order; the other arguments are those of `join_tracks`.
    """
    out: list[dict[int, int]] = []
    count = 0
    for k, chunk in enumerate(chunks):
        joined = join_tracks(chunks[k - 1], chunk, max_gap_s, same_person) if k else {}
        ids = {}
        for summary in sorted(chunk, key=lambda t: (t.first_s, t.track)):
            if summary.track in joined:
                ids[summary.track] = out[k - 1][joined[summary.track]]
            else:
                ids[summary.track] = count
                count += 1
        out.append(ids)
    return out
