"""Faces of a video that are edited: chosen once, followed by track, with smoothed coefficients, masks and boxes.

Path: frames in order -> `TrackedFaces` -> track and face of each chosen face -> `rigface.video_editor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import cv2
import numpy as np

from rigface.face.analyzer import FaceAnalyzer
from rigface.face.detection.detector import KeyframeDetector
from rigface.face.detection.tracking import Tracker
from rigface.face.reconstruction.one_euro import OneEuro, OneEuroSettings, Smoother
from rigface.types import Detection, Face, FaceParams, Frame

NEW_MASK = 0.5  # weight of a frame's own mask


class TrackedFaces:
    """The chosen faces of each frame, with smoothed coefficients.

    Args:
        faces: choices, each `largest`, `left-most`, `right-most`, `all`, or a number counted from the left. A choice
            lasts as long as its track, a face is the first one's that chooses it, and `all` has the rest.
        smooth: fields to filter.
        boxes: filter the boxes as well.
    """

    def __init__(
        self, analyzer: FaceAnalyzer, faces: Sequence[str], smooth: tuple[str, ...], fps: float, boxes: bool = False
    ) -> None:
        self._analyzer, self._faces, self._smooth, self._boxes = analyzer, faces, smooth, boxes
        self.choices: dict[int, int] = {}  # track of each face of the last frame -> number of its choice
        self._detector = KeyframeDetector(analyzer.detector)
        self._tracker = Tracker(max_gap=ceil(fps or 25))
        self._chosen: dict[int, int] = {}  # number of a choice -> track
        self._filters: dict[int, Smoother] = {}
        self._masks: dict[int, np.ndarray] = {}
        self._box_filters: dict[int, OneEuro] = {}

    def __call__(self, frame: Frame) -> list[tuple[int, Face]]:
        """Track and face of each chosen face, from left to right."""
        detections = sorted(self._detector(frame.image), key=lambda d: float(d.box[0]))
        tracks = self._tracker.update(frame.image, detections)
        picked = self._pick(detections, tracks)
        steady = [self._with_steady_box(detections[k], tracks[k], frame.time_s) for k in picked]
        faces = self._analyzer.faces(frame.image, steady)
        self._masks = {tracks[k]: self._with_past(tracks[k], face.mask) for k, face in zip(picked, faces)}
        return [
            (t, replace(face, params=self._filtered(t, face.params, frame.time_s), mask=self._masks[t]))
            for t, face in zip((tracks[k] for k in picked), faces)
        ]

    def _with_past(self, track: int, mask: np.ndarray) -> np.ndarray:
        """The mask, averaged with those of the track's last frames: both are of crops that follow the head."""
        past = self._masks.get(track)
        return mask if past is None else cv2.addWeighted(past, 1 - NEW_MASK, mask, NEW_MASK, 0)

    def _pick(self, detections: list[Detection], tracks: list[int]) -> list[int]:
        """Chosen detections, from left to right."""
        held = {number: tracks.index(track) for number, track in self._chosen.items() if track in tracks}
        for number, which in enumerate(self._faces):
            if which != "all" and number not in held:
                k = _place(which, detections)
                if k is not None and k not in held.values():
                    held[number], self._chosen[number] = k, tracks[k]
        picked = {k: number for number, k in held.items()}
        if "all" in self._faces:
            picked = dict.fromkeys(range(len(detections)), self._faces.index("all")) | picked
        self.choices = {tracks[k]: number for k, number in picked.items()}
        return sorted(picked)

    def _with_steady_box(self, detection: Detection, track: int, time_s: float) -> Detection:
        if not self._boxes:
            return detection
        size = float(np.max(detection.box[2:] - detection.box[:2]))
        settings = OneEuroSettings(1.0, 4.0 / size)  # at a face's width a second: 5 Hz
        box = self._box_filters.setdefault(track, OneEuro(settings))(detection.box, time_s)
        return replace(detection, box=box.astype(np.float32), finder_box=None)  # crops follow the steady box

    def _filtered(self, track: int, params: FaceParams, time_s: float) -> FaceParams:
        if not self._smooth:
            return params
        return self._filters.setdefault(track, Smoother(self._smooth))(params, time_s)


def _place(which: str, detections: list[Detection]) -> int | None:
    """Place of the detection, from the left, that a choice means; None if there is no such face."""
    if which.isdecimal():
        return int(which) if int(which) < len(detections) else None
    if not detections:
        return None
    area = [float(np.prod(d.box[2:] - d.box[:2])) for d in detections]
    return {"largest": int(np.argmax(area)), "left-most": 0, "right-most": len(detections) - 1}[which]
