"""Analysis of one image: all its faces, cropped, reconstructed and masked.

Path: image -> FaceAnalyzer -> [Face] -> transfer, preview, compose. The steps are those of `steps.py`, which the
extract job runs as stages over many frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from rigface.errors import NoFace
from rigface.face.detection.detector import Detector
from rigface.face.detection.factory import load_detector
from rigface.face.reconstruction.parsers import load_parser
from rigface.face.reconstruction.protocol import Reconstructor
from rigface.face.reconstruction.reconstructor import load_reconstructor
from rigface.face.reconstruction.segmentation import Parser
from rigface.face.steps import align, reconstruct, segment
from rigface.types import Detection, Face, FaceParams, HeadSpec

FACE_CHOICES = ("largest", "left-most", "right-most", "all")


class FaceAnalyzer:
    """Detector, reconstructor and parser, loaded once. Stateless; not for several threads at once, as its detector."""

    def __init__(self, detector: Detector, reconstructor: Reconstructor, parser: Parser) -> None:
        self.detector, self.reconstructor, self.parser = detector, reconstructor, parser

    @classmethod
    def load(cls, device: str = "cpu", *, small_faces: bool = False) -> FaceAnalyzer:
        """The default: MediaPipe, closed-form fitting of the open head, and the mask by colours.

        `small_faces` searches for faces down to 24 px, which is several times slower.
        """
        detector = load_detector("mediapipe", small_faces=small_faces)
        return cls(detector, load_reconstructor(device=device), load_parser())

    @property
    def head(self) -> HeadSpec:
        """The head model of the coefficients."""
        return self.reconstructor.head_spec

    def __call__(self, image: np.ndarray) -> list[Face]:
        """All faces of an image (H, W, 3) uint8, from left to right."""
        return self.faces(image, sorted(self.detector(image), key=lambda d: float(d.box[0])))

    def faces(self, image: np.ndarray, detections: Sequence[Detection]) -> list[Face]:
        """Analyse the detected faces of an image (H, W, 3) uint8, in their order; each is fitted by itself."""
        if not detections:
            return []
        faces = align([image] * len(detections), detections)
        fit = reconstruct(self.reconstructor, faces)
        return [
            Face(
                crop=crop,
                frame_to_crop=faces.frame_to_crop[i],
                box=faces.boxes[i],
                landmarks=faces.landmarks[i],
                params=fit.params.map(itemgetter(i)),
                mask=segment(self.parser, faces, i, image.shape[:2]),
                residual=float(fit.landmark_residual[i]),
            )
            for i, crop in enumerate(faces.crops)
        ]

    def coefficients(self, image: np.ndarray, detections: Sequence[Detection]) -> list[FaceParams]:
        """Coefficients of the detected faces: `faces` without the masks."""
        if not detections:
            return []
        params = reconstruct(self.reconstructor, align([image] * len(detections), detections)).params
        return [params.map(itemgetter(i)) for i in range(len(detections))]


def choose_faces(faces: list[Face], which: str | int) -> list[Face]:
    """Choose faces by `largest`, `left-most`, `right-most`, `all`, or a number counted from the left, from 0.

    NoFace if there is no such face, ValueError if `which` is none of these.
    """
    if not faces:
        raise NoFace("no face was found in the image", stage="detect")
    if which == "all":
        return faces
    if which == "largest":
        return [max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))]
    if which == "left-most":
        return faces[:1]
    if which == "right-most":
        return faces[-1:]
    if str(which).isdecimal():
        if int(which) >= len(faces):
            raise NoFace(
                f"there is no face {which}: the image has {len(faces)}, counted from the left, from 0", "detect"
            )
        return [faces[int(which)]]
    raise ValueError(f"face: want one of {', '.join(FACE_CHOICES)} or a number, got {which!r}")
