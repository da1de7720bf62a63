"""Analysis of one image: all its faces, cropped, reconstructed and masked.

Path: image -> FaceAnalyzer -> [Face] -> transfer, preview, compose. The steps are those of `steps.py`, which the
extract job runs as stages over many frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np

from rigface.edits import FaceEdit
from rigface.errors import BadEdit, NoFace
from rigface.face.detection.boxes import iou, landmark_box
from rigface.face.detection.detector import Detector
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.profile_networks import (
    load_profile_detector,
    load_profile_parser,
    load_profile_reconstructor,
    without_codes,
)
from rigface.face.reconstruction.protocol import Reconstructor
from rigface.face.reconstruction.segmentation import Parser
from rigface.face.steps import AlignedFaces, align, assess, reconstruct, segment
from rigface.profile import OWN, CropRule, FaceProfile
from rigface.types import CROP_PX, Detection, Face, FaceParams, HeadSpec

FACE_CHOICES = ("largest", "left-most", "right-most", "all")


class FaceAnalyzer:
    """Detector, reconstructor and parser, loaded once. Stateless; not for several threads at once, as its detector."""

    def __init__(
        self, detector: Detector, reconstructor: Reconstructor, parser: Parser, crop_rule: CropRule = "own"
    ) -> None:
        self.detector, self.reconstructor, self.parser, self.crop_rule = detector, reconstructor, parser, crop_rule

    @classmethod
    def load(cls, profile: FaceProfile = OWN, device: str = "cpu", *, small_faces: bool = False) -> FaceAnalyzer:
        """The analyzer of a profile; by default MediaPipe's landmarks and selfie mask, and the open head fitted in
        closed form.

        `small_faces` searches for faces down to 24 px, which is several times slower.

        Raises:
            MissingAsset: a network of the profile is not on this machine.
        """
        return cls(
            load_profile_detector(profile, small_faces=small_faces),
            load_profile_reconstructor(profile, device),
            load_profile_parser(profile, device),
            profile.crop,
        )

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
        return self._analyzed(align([image] * len(detections), detections, self.crop_rule), image.shape[:2])

    def again(self, face: Face) -> Face:
        """A face of another analyzer, analysed anew in its own crop: coefficients, landmarks, mask, residual."""
        scores = np.zeros(len(self.detector.spec.blendshape_names), np.float32)
        known = Detection(landmark_box(face.landmarks), face.landmarks, 0.0, scores)
        found = max(
            self.detector(face.crop, second_look=False), key=lambda d: iou(d.box, known.box[None])[0], default=known
        )
        crop = AlignedFaces(
            crops=[face.crop],
            frame_to_crop=np.eye(2, 3, dtype=np.float32)[None],
            boxes=found.box[None],
            landmarks=found.landmarks[None],
            scores=np.array([found.score]),
            blendshapes=None if found.blendshapes is None else found.blendshapes[None],
        )
        return replace(self._analyzed(crop, (CROP_PX, CROP_PX))[0], frame_to_crop=face.frame_to_crop, box=face.box)

    def _analyzed(self, faces: AlignedFaces, frame_size: tuple[int, int]) -> list[Face]:
        fit = reconstruct(self.reconstructor, faces)
        masks = [segment(self.parser, faces, i, frame_size) for i in range(len(faces))]
        degrees = to_degrees(to_matrix(fit.params.head_rotation))
        residuals = np.stack([fit.landmark_residual, fit.photometric_residual, fit.occlusion], axis=1)
        return [
            Face(
                crop=crop,
                frame_to_crop=faces.frame_to_crop[i],
                box=faces.boxes[i],
                landmarks=faces.landmarks[i],
                params=fit.params.map(itemgetter(i)),
                mask=masks[i],
                residual=float(fit.landmark_residual[i]),
                confidence=assess(faces, i, masks[i], degrees[i], residuals[i]).confidence,
            )
            for i, crop in enumerate(faces.crops)
        ]

    def coefficients(self, image: np.ndarray, detections: Sequence[Detection]) -> list[FaceParams]:
        """Coefficients of the detected faces: `faces` without the masks and expression codes."""
        if not detections:
            return []
        aligned = align([image] * len(detections), detections, self.crop_rule)
        params = reconstruct(without_codes(self.reconstructor), aligned).params
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


def chosen_faces(faces: list[Face], edits: Sequence[FaceEdit[Any]]) -> list[tuple[Face, int]]:
    """Each face of a picture to be edited, with the number of its edit, in the order of edits.

    Of two edits the first has a face that both choose, and `all` has those that no other edit chooses. NoFace if there
    is no such face, BadEdit if none is left for an edit.
    """
    owner: dict[int, int] = {}  # id of a face -> number of its edit
    chosen = {number: choose_faces(faces, one.face) for number, one in enumerate(edits)}
    for number in sorted(chosen, key=lambda n: edits[n].face == "all"):
        free = [face for face in chosen[number] if id(face) not in owner]
        if not free:
            raise BadEdit(f"face {edits[number].face}: another edit has it")
        owner |= dict.fromkeys(map(id, free), number)
    return [(face, n) for n in chosen for face in chosen[n] if owner[id(face)] == n]
