"""SCRFD for detection with MediaPipe's landmarker for each face: a model pack's detector for the open head.

Path: Frame.image -> ScrfdDetector -> [Detection] with 478 points and 52 expression scores.

The open head is fitted to MediaPipe's landmarks and scores, which no model pack has; SCRFD sees faces that are
smaller, or further from its training pictures, than MediaPipe's plain look does. Scores are BlazeFace's on the face's
own square, as with the detector `mediapipe`: the columns of quality are tuned to them and mean the same.

A face that SCRFD finds and the landmarker does not see, enlarged as it is, has nothing to be fitted to and is left
out, as in MediaPipe's own second look.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rigface.face.detection.boxes import non_maximum_suppression
from rigface.face.detection.insightface import InsightfaceDetector
from rigface.face.detection.mediapipe import BLENDSHAPES, MediapipeDetector
from rigface.types import Detection, DetectorSpec


class ScrfdDetector:
    """Detector with the SCRFD of a model pack and MediaPipe's landmarker. Not for use by several threads at once.

    The pack is in `folder`, or an assets folder. `small_faces` takes SCRFD's second look, tile by tile, at every
    picture. MissingAsset if there is no pack, it has no detector, or the landmarker is not on this machine.
    """

    def __init__(self, folder: str | Path | None = None, *, small_faces: bool = False) -> None:
        self._finder = InsightfaceDetector(folder, small_faces=small_faces, with_landmarks=False)
        self._landmarker = MediapipeDetector()
        version = f"{self._finder.spec.version}+{self._landmarker.spec.version}"
        self.spec = DetectorSpec("scrfd", version, self._landmarker.spec.landmarks, BLENDSHAPES)

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        """See `Detector`."""
        faces = [
            (self._landmarker.detect_at(image, finding.box, before), finding.box)
            for finding in self._finder(image, second_look=second_look, before=before)
        ]
        return non_maximum_suppression([replace(face, finder_box=box) for face, box in faces if face is not None])
