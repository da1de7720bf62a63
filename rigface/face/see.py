"""See a picture: every face in it, cropped, reconstructed and masked.

Path: picture -> See -> [Face] -> mix, preview, compose. For single pictures; the dataset job runs the same steps as
stages over many frames (`pipelines/look.py` and after).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rigface.errors import NoFace
from rigface.face import align
from rigface.face.detect import Detector, load_detector
from rigface.face.reconstruct import Reconstructor, load_reconstructor
from rigface.types import Detection, Face, HeadSpec

CHOICES = ("largest", "left-most", "right-most", "all")


class See:
    """Detector, reconstructor and mask, loaded once. Stateless between calls, but the detector takes one at a time."""

    def __init__(
        self, detector: Detector, reconstructor: Reconstructor, mask: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> None:
        self.detector, self.reconstructor, self._mask = detector, reconstructor, mask

    @classmethod
    def load(cls, device: str = "cpu") -> See:
        """The default eyes: MediaPipe, closed-form fitting of the open head, and the seeded mask."""
        from rigface.face.parse import person_mask

        return cls(load_detector("mediapipe"), load_reconstructor(device=device), person_mask)

    @property
    def head(self) -> HeadSpec:
        """The head model of the coefficients."""
        return self.reconstructor.head_spec

    def __call__(self, image: np.ndarray) -> list[Face]:
        """All faces, from left to right.

        Args:
            image: (H, W, 3) uint8.
        """
        found = sorted(self.detector(image), key=lambda d: float(d.box[0]))
        if not found:
            return []
        affines = [align.frame_to_crop(d.box) for d in found]
        crops = [align.crop(image, affine) for affine in affines]
        landmarks = np.stack([in_crop(d, affine) for d, affine in zip(found, affines)])
        scores = None if found[0].blendshapes is None else np.stack([d.blendshapes for d in found])
        fit = self.reconstructor(crops, landmarks, scores, np.arange(len(found)))
        return [
            Face(
                crop=crops[i],
                frame_to_crop=affines[i],
                box=np.asarray(found[i].box, np.float32),
                landmarks=landmarks[i],
                params=fit.params.map(lambda a, i=i: a[i]),
                mask=self._mask(crops[i], landmarks[i]),
                residual=float(fit.landmark_residual[i]),
            )
            for i in range(len(found))
        ]


def in_crop(face: Detection, affine: np.ndarray) -> np.ndarray:
    """(L, 3) landmarks in crop px, z on the same scale."""
    flat = align.apply(affine, face.landmarks[:, :2])
    return np.concatenate([flat, face.landmarks[:, 2:] * affine[0, 0]], axis=1).astype(np.float32)


def choose(faces: list[Face], which: str | int) -> list[Face]:
    """The faces meant by `largest`, `left-most`, `right-most`, `all`, or a number counted from the left, from 0.

    Raises:
        NoFace: there is no such face.
        ValueError: none of these words.
    """
    if not faces:
        raise NoFace("no face was found in the picture", stage="detect")
    if which == "all":
        return faces
    if which == "largest":
        return [max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))]
    if which == "left-most":
        return faces[:1]
    if which == "right-most":
        return faces[-1:]
    if str(which).isdigit():
        if int(which) >= len(faces):
            raise NoFace(
                f"face {which} was asked for, and the picture has {len(faces)} (counted from the left, from 0)",
                "detect",
            )
        return [faces[int(which)]]
    raise ValueError(f"face: want one of {', '.join(CHOICES)} or a number, got {which!r}")
