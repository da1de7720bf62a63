"""The Detector interface, and KeyframeDetector for consecutive frames.

Path: Frame.image -> Detector -> [Detection] -> Tracker and align. `mediapipe.py`, `insightface.py` and `scrfd.py`
implement the Protocol; everything behind it knows faces only as `Detection`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from rigface.types import Detection, DetectorSpec


class Detector(Protocol):
    """Detects the faces of one image. Stateless: the same image gives the same result."""

    spec: DetectorSpec

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        """Detect faces, surest first.

        Args:
            image: (H, W, 3) uint8 RGB.
            second_look: search for small faces tile by tile, which costs many times a plain look. None: if the detector
                was built with `small_faces`, or if the plain look finds no face.
            before: detections of the previous frame. Faces lost since are searched at their old places, at little cost,
                and scores of faces that are still visible are kept. Without it, every face is scored anew.
        """


@runtime_checkable
class BatchDetector(Detector, Protocol):
    """A detector that does what it can for several images at once."""

    def prepare(self, images: Sequence[np.ndarray]) -> None:
        """Look at images that the next calls are for, (H, W, 3) uint8 RGB each; what was prepared before is gone."""


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless the image is (H, W, 3) uint8 and not empty."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: want (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")


class KeyframeDetector:
    """Detects faces in consecutive frames of one chunk: a second look every n-th frame at most, memory in between.

    One instance per chunk, fed every frame in order, gives the same result on every machine and every retry. On the
    frames between two full looks, small faces and faces that drop out are searched only at their last places, and
    scores are kept.
    """

    def __init__(self, detector: Detector, every: int = 15) -> None:
        if every < 1:
            raise ValueError(f"every: want at least 1, got {every}")
        self._detector, self._every = detector, every
        self._count = 0
        self._before: list[Detection] = []

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Detect the faces of the next frame, surest first."""
        if self._count % self._every == 0:
            found = self._detector(image)
        else:
            found = self._detector(image, second_look=False, before=self._before)
        self._count += 1
        self._before = found
        return found
