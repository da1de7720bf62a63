"""Load a detector by name."""

from typing import Any

from rigface.face.detection.detector import Detector


def load_detector(name: str = "mediapipe", **options: Any) -> Detector:
    """A detector by name, with the options of its class; MissingAsset if its weights are not on this machine.

    `mediapipe` is the default (478 points, 52 expression scores); `insightface` has 106 points and needs a model pack;
    `scrfd` has the pack's faces and MediaPipe's points and scores.
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
