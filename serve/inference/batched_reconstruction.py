"""One detector and one fit for many callers in threads: in turn where it must be, together where that costs less.

Path: `eye.py` -> `in_turn`, to read pictures; `together`, to measure results.

MediaPipe takes one picture at a time. A fit does not care how many faces it is given: of one face it costs 11 ms on a core and of
sixteen 29 ms, most of it the cost of calling small operations. So a fit that finds another under way waits for its end, and then
goes with all that wait; one that comes alone waits for nobody. Faces of different callers share nothing but the call: each has a
track of its own.

In company a shape comes out up to 0.0003 standard deviations other than alone, by rounding. So only results are measured together;
a source is read alone, and an edit does not depend on its neighbours.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rigface.face.analyzer import FaceAnalyzer
from rigface.face.detection.detector import Detector
from rigface.face.reconstruction.protocol import Fit, Reconstructor
from rigface.types import Detection

MOST = 32  # faces of one fit


def in_turn(see: FaceAnalyzer) -> FaceAnalyzer:
    """The same eyes, for threads."""
    return FaceAnalyzer(SerializedDetector(see.detector), see.reconstructor, see.parser)


def together(see: FaceAnalyzer) -> FaceAnalyzer:
    """The same eyes, with fits that are done together."""
    return FaceAnalyzer(see.detector, BatchedReconstructor(see.reconstructor), see.parser)


class SerializedDetector:
    """A detector that takes one picture at a time, whoever comes."""

    def __init__(self, inner: Detector) -> None:
        self.spec, self._inner, self._one = inner.spec, inner, threading.Lock()

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        """As the detector's own."""
        with self._one:
            return self._inner(image, second_look=second_look, before=before)


@dataclass(eq=False)
class _Ask:
    crops: Sequence[np.ndarray]
    landmarks: np.ndarray
    blendshapes: np.ndarray | None
    tracks: np.ndarray
    done: threading.Event = field(default_factory=threading.Event)
    fit: Fit | None = None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Asks of one kind fit into one call."""
        return self.landmarks.shape[1:], None if self.blendshapes is None else self.blendshapes.shape[1:]


class BatchedReconstructor:
    """A reconstructor whose callers share a call where they come while another is under way."""

    def __init__(self, inner: Reconstructor) -> None:
        self.head_spec, self._inner = inner.head_spec, inner
        self._working, self._list = threading.Lock(), threading.Lock()
        self._waiting: list[_Ask] = []
        self.calls = 0

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        """As the reconstructor's own."""
        ask = _Ask(crops, landmarks, blendshapes, tracks)
        with self._list:
            self._waiting.append(ask)
        with self._working:
            while not ask.done.is_set():
                self._some()
        if ask.fit is None:  # the call failed; by itself this one says why, or does not fail
            return self._inner(crops, landmarks, blendshapes, tracks)
        return ask.fit

    def _some(self) -> None:
        """The first that waits, and others of its kind as long as they are few enough."""
        with self._list:
            first, *rest = self._waiting
            batch, count = [first], len(first.crops)
            for ask in rest:
                if ask.kind == first.kind and count + len(ask.crops) <= MOST:
                    batch.append(ask)
                    count += len(ask.crops)
            self._waiting = [ask for ask in rest if ask not in batch]
        self.calls += 1
        try:
            fit = self._inner(*_joined(batch))
            ends = np.cumsum([len(ask.crops) for ask in batch])
            for ask, end in zip(batch, ends):
                ask.fit = _part(fit, slice(end - len(ask.crops), end))
        except Exception:
            return  # whose trouble it was is found out one by one
        finally:
            for ask in batch:
                ask.done.set()


def _joined(asks: list[_Ask]) -> tuple[Any, ...]:
    """The arguments of one call for all of them; their tracks are told apart."""
    if len(asks) == 1:
        one = asks[0]
        return one.crops, one.landmarks, one.blendshapes, one.tracks
    tracks, first = [], 0
    for ask in asks:
        own = np.unique(ask.tracks, return_inverse=True)[1]
        tracks.append(own + first)
        first += len(own)
    scores = None if asks[0].blendshapes is None else np.concatenate([a.blendshapes for a in asks])
    crops = [crop for ask in asks for crop in ask.crops]
    return crops, np.concatenate([a.landmarks for a in asks]), scores, np.concatenate(tracks)


def _part(fit: Fit, rows: slice) -> Fit:
    numbers = (a[rows] for a in (fit.landmark_residual, fit.photometric_residual, fit.occlusion))
    return Fit(fit.params.map(lambda a: a[rows]), *numbers)
