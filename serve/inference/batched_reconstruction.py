"""Share one detector and one reconstructor among threads: detection serialized, reconstruction in batches.

Path: `serve.inference.face_worker` -> `with_serialized_detector`, for sources; `with_batched_reconstructor`, for
results.

MediaPipe takes one image at a time. A fit of one face costs 11 ms on a core and of sixteen 29 ms, most of it the
overhead of small operations. So a fit that finds another under way waits for its end, and then runs with all that
wait; a single one never waits. Faces of different callers share nothing but the call: each has a track of its own.

In a batch a shape differs by up to 0.0003 standard deviations from one fitted alone, by rounding. So only results are
measured in batches; a source is fitted alone, and an edit does not depend on concurrent ones.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rigface.face.analyzer import FaceAnalyzer
from rigface.face.detection.detector import Detector
from rigface.face.profile_networks import without_codes
from rigface.face.reconstruction.protocol import Fit, Reconstructor
from rigface.types import Detection

MAX_FACES = 32  # of one fit


def with_serialized_detector(analyzer: FaceAnalyzer) -> FaceAnalyzer:
    """The analyzer, safe for threads."""
    detector = SerializedDetector(analyzer.detector)
    return FaceAnalyzer(detector, analyzer.reconstructor, analyzer.parser, analyzer.crop_rule)


def with_batched_reconstructor(analyzer: FaceAnalyzer) -> FaceAnalyzer:
    """The analyzer with fits in batches, and without expression codes, which are not measured."""
    batched = BatchedReconstructor(without_codes(analyzer.reconstructor))
    return FaceAnalyzer(analyzer.detector, batched, analyzer.parser, analyzer.crop_rule)


class SerializedDetector:
    """A detector that takes one image at a time."""

    def __init__(self, inner: Detector) -> None:
        self.spec, self._inner, self._lock = inner.spec, inner, threading.Lock()

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        with self._lock:
            return self._inner(image, second_look=second_look, before=before)


@dataclass(eq=False)
class _Request:
    crops: Sequence[np.ndarray]
    landmarks: np.ndarray
    blendshapes: np.ndarray | None
    tracks: np.ndarray
    done: threading.Event = field(default_factory=threading.Event)
    fit: Fit | None = None

    @property
    def kind(self) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Requests of one kind fit into one call."""
        return self.landmarks.shape[1:], None if self.blendshapes is None else self.blendshapes.shape[1:]


class BatchedReconstructor:
    """A reconstructor whose callers share a call if they arrive during another."""

    def __init__(self, inner: Reconstructor) -> None:
        self.head_spec, self.version, self._inner = inner.head_spec, inner.version, inner
        self._fit_lock, self._queue_lock = threading.Lock(), threading.Lock()
        self._waiting: list[_Request] = []
        self.calls = 0

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        request = _Request(crops, landmarks, blendshapes, tracks)
        with self._queue_lock:
            self._waiting.append(request)
        with self._fit_lock:
            while not request.done.is_set():
                self._fit_batch()
        if request.fit is None:  # the batch failed; alone this request succeeds, or raises its own error
            return self._inner(crops, landmarks, blendshapes, tracks)
        return request.fit

    def _fit_batch(self) -> None:
        """Fit the first waiting request with others of its kind, up to `MAX_FACES`."""
        with self._queue_lock:
            first, *rest = self._waiting
            batch, count = [first], len(first.crops)
            for request in rest:
                if request.kind == first.kind and count + len(request.crops) <= MAX_FACES:
                    batch.append(request)
                    count += len(request.crops)
            self._waiting = [request for request in rest if request not in batch]
        self.calls += 1
        try:
            fit = self._inner(*_joined(batch))
            ends = np.cumsum([len(request.crops) for request in batch])
            for request, end in zip(batch, ends):
                request.fit = _part(fit, slice(end - len(request.crops), end))
        except Exception:
            return  # each caller tries its own request alone
        finally:
            for request in batch:
                request.done.set()


def _joined(requests: list[_Request]) -> tuple[Sequence[np.ndarray], np.ndarray, np.ndarray | None, np.ndarray]:
    """The arguments of one call for all requests, with distinct tracks."""
    if len(requests) == 1:
        only = requests[0]
        return only.crops, only.landmarks, only.blendshapes, only.tracks
    tracks, first = [], 0
    for request in requests:
        own = np.unique(request.tracks, return_inverse=True)[1]
        tracks.append(own + first)
        first += len(own)
    scores = [request.blendshapes for request in requests if request.blendshapes is not None]
    crops = [crop for request in requests for crop in request.crops]
    landmarks = np.concatenate([request.landmarks for request in requests])
    return crops, landmarks, np.concatenate(scores) if scores else None, np.concatenate(tracks)


def _part(fit: Fit, rows: slice) -> Fit:
    numbers = (a[rows] for a in (fit.landmark_residual, fit.photometric_residual, fit.occlusion))
    return Fit(fit.params.map(lambda a: a[rows]), *numbers)
