"""What a detector is, how to get one by name, and how to look at a run of frames without paying twice.

Path: Frame.image -> Detector -> [Detection] -> Tracker and align. `mediapipe_detector.py`, `insightface_detector.py` and
`scrfd_detector.py` implement the Protocol; everything behind it knows faces only as `Detection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rigface.types import Detection, DetectorSpec


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


class KeyframeDetector:
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
