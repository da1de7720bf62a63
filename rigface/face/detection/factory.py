"""Load a detector by name."""

from __future__ import annotations

from typing import Any

from rigface.face.detection.detector import Detector


def load_detector(name: str = "mediapipe", **options: Any) -> Detector:
    """A detector by name, ready to use.

    Args:
        name: `mediapipe` (478 points, 52 expression scores; the default), `insightface` (106 points; needs a model
            pack) or `scrfd` (the pack's faces, MediaPipe's points and scores).
        options: those of the class: `small_faces`, `faces`, `folder` ..., see `MediapipeDetector`,
            `InsightfaceDetector`.

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
