"""Steps from detections to coefficients, masks and quality, over batches of faces.

Path: image and its [Detection] -> align -> AlignedFaces -> reconstruct -> segment -> assess. `FaceAnalyzer` runs them
on one image, the extract job as stages over many frames (`pipelines/extract/frame_processor.py`, `stages.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rigface.face.geometry import alignment, rigface_crop
from rigface.face.reconstruction.frame_white import brighter, in_frame
from rigface.face.reconstruction.protocol import Fit, Reconstructor
from rigface.face.reconstruction.quality import measure_quality
from rigface.face.reconstruction.segmentation import Parser
from rigface.profile import CropRule
from rigface.types import CROP_PX, Detection, Quality


@dataclass(frozen=True, eq=False)
class AlignedFaces:
    """N detected faces in their crops."""

    crops: Sequence[np.ndarray]  # N images (S, S, 3) uint8 RGB: the 512 px crops, or smaller copies of them
    frame_to_crop: np.ndarray  # (N, 2, 3) float32 affines to the 512 px crop
    boxes: np.ndarray  # (N, 4) float32 x0, y0, x1, y1 of the landmarks, frame px
    landmarks: np.ndarray  # (N, L, 3) float32 crop px (of the 512 px crop), z negative towards the camera
    scores: np.ndarray  # (N,) the detector's, in [0, 1]
    blendshapes: np.ndarray | None  # (N, B) float32 in [0, 1]; None if they are missing for any face
    brighter: np.ndarray | None = None  # (N,) white of frame and face over the crop's; None: the frame is not known

    def __len__(self) -> int:
        return len(self.crops)


def align(images: Sequence[np.ndarray], detections: Sequence[Detection], crop_rule: CropRule = "own") -> AlignedFaces:
    """Cut the crop of each detection, at least one, from its image (H, W, 3) uint8 RGB, which may repeat.

    The rule `rigface` is that of the released RigFace code, for detections with a face detector's own box; it frames
    faces as our own rule does, which serves the others.

    ValueError if a box is empty or not finite.
    """
    cuts = [_cut(image, detection, crop_rule) for image, detection in zip(images, detections)]
    affines = [affine for _, affine in cuts]
    blendshapes = [d.blendshapes for d in detections if d.blendshapes is not None]
    crops = [crop for crop, _ in cuts]
    landmarks = np.stack([alignment.apply(affine, d.landmarks) for d, affine in zip(detections, affines)])
    return AlignedFaces(
        crops=crops,
        frame_to_crop=np.stack(affines),
        boxes=np.stack([np.asarray(d.box, np.float32) for d in detections]),
        landmarks=landmarks,
        scores=np.array([d.score for d in detections]),
        blendshapes=np.stack(blendshapes) if len(blendshapes) == len(detections) else None,
        brighter=brighter(images, crops, landmarks),
    )


def _cut(image: np.ndarray, detection: Detection, crop_rule: CropRule) -> tuple[np.ndarray, np.ndarray]:
    """The crop (512, 512, 3) uint8 of a face, and the affine (2, 3) to it."""
    if crop_rule == "rigface" and detection.finder_box is not None:
        affine = rigface_crop.rigface_frame_to_crop(detection.finder_box)
        return rigface_crop.rigface_photo(image, affine), affine
    affine = alignment.frame_to_crop(detection.box)
    return alignment.crop(image, affine), affine


def reconstruct(reconstructor: Reconstructor, faces: AlignedFaces, tracks: np.ndarray | None = None) -> Fit:
    """Fit the head model to all faces in one call; faces with the same number in `tracks` (N,) are one person."""
    tracks = np.arange(len(faces)) if tracks is None else tracks
    fit = reconstructor(faces.crops, faces.landmarks, faces.blendshapes, tracks)
    return fit if faces.brighter is None else in_frame(fit, reconstructor.head_spec, faces.brighter, tracks)


def segment(parser: Parser, faces: AlignedFaces, i: int, frame_size: tuple[int, int]) -> np.ndarray:
    """(512, 512) uint8 person mask of face i: 255 person, 0 background and outside the frame of (height, width) px."""
    crop, (height, width) = faces.crops[i], frame_size
    scale = len(crop) / CROP_PX
    frame = alignment.apply(faces.frame_to_crop[i], np.array([[0, 0], [width, height]], np.float32)).ravel()
    x0, y0, x1, y1 = (scale * frame).tolist()
    return parser(crop, scale * faces.landmarks[i], (x0, y0, x1, y1), CROP_PX)


def assess(
    faces: AlignedFaces, i: int, mask: np.ndarray | None, rotation_deg: np.ndarray, residuals: np.ndarray
) -> Quality:
    """Quality columns of face i, with yaw, pitch and roll (3,) and residuals (3,) of `Fit`.

    Without its mask (512, 512), `confidence`, `exposure` and `skin_tone_ita_deg` are not quite those of the person.
    """
    crop, numbers = faces.crops[i], [*rotation_deg.tolist(), *residuals.tolist()]
    landmarks = faces.landmarks[i] * (len(crop) / CROP_PX)
    return measure_quality(crop, landmarks, faces.boxes[i], float(faces.scores[i]), mask, *numbers)
