"""Which class stands behind each name in `Settings`. The one place where fakes and real networks meet.

Everything is imported where it is asked for: the driver, the lookers and the GPU actors each load only what they use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from pipelines.child import Child
from pipelines.config import Settings
from rigface.errors import PlanError
from rigface.types import CROP_PX, DetectorSpec, HeadSpec, Quality

if TYPE_CHECKING:
    from rigface.face.detect import Detector
    from rigface.face.reconstruct import Reconstructor


@dataclass(frozen=True, eq=False)
class Sighting:
    """What is known of one face when it is judged.

    Args:
        box: (4,) frame px.
        landmarks: (L, 3) crop px.
        inside: (4,) x0, y0, x1, y1 of the frame, crop px.
        score: the detector's.
        degrees: (3,) yaw, pitch and roll of the head.
        residuals: (3,) of landmarks, of colours, and the occluded share, as the reconstructor says.
    """

    box: np.ndarray
    landmarks: np.ndarray
    inside: np.ndarray
    score: float
    degrees: np.ndarray
    residuals: np.ndarray


class Identity(Protocol):
    """Says who somebody is."""

    def embed(self, chips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, 128) float32 identity vectors of N chips (150, 150, 3) uint8 RGB, as `identity.Picker` cuts them."""
        ...


def detector(settings: Settings) -> Detector:
    """Finds faces.

    Raises:
        MissingAsset: its weights are not on this machine.
    """
    if settings.detector == "fake":
        from rigface.fake import FakeDetector

        return FakeDetector()
    from rigface.face.detect import load_detector

    options = {"folder": settings.detector_folder} if settings.detector_folder else {}
    return load_detector(settings.detector, small_faces=settings.small_faces, **options)


def identity(settings: Settings) -> Identity | None:
    """Says who somebody is; None where nobody is asked.

    Raises:
        MissingAsset: its weights are not on this machine.
    """
    if settings.identity == "none":
        return None
    if settings.identity == "fake":
        from rigface.fake import FakeIdentity

        return FakeIdentity()
    from rigface.face.identity import DlibIdentity

    return DlibIdentity()


def reconstructor(settings: Settings, device: str) -> Reconstructor:
    """Turns crops into coefficients.

    Args:
        device: `cpu` or `cuda`.

    Raises:
        MissingAsset: its weights are not on this machine.
    """
    if settings.reconstructor == "fake":
        from rigface.fake import FakeReconstructor

        return cast("Reconstructor", FakeReconstructor())  # its FakeFit has Fit's fields and no torch
    from rigface.face.reconstruct import load_reconstructor

    return load_reconstructor(settings.reconstructor, head=settings.head, device=device)


class Judge(Protocol):
    """Says which pixels are the person, and how far to trust the row."""

    def mask(self, crop: np.ndarray, face: Sighting) -> np.ndarray:
        """(512, 512) uint8: 255 person, 0 background; the crop may be a smaller copy."""
        ...

    def quality(self, crop: np.ndarray, mask: np.ndarray, face: Sighting) -> Quality:
        """The quality columns."""
        ...


class ColourJudge:
    """Mask by colours, quality by measurement; no network."""

    def mask(self, crop: np.ndarray, face: Sighting) -> np.ndarray:
        from rigface.face.parse import person_mask

        scale = len(crop) / CROP_PX
        x0, y0, x1, y1 = (scale * face.inside).tolist()
        return person_mask(crop, scale * face.landmarks, (x0, y0, x1, y1), CROP_PX)

    def quality(self, crop: np.ndarray, mask: np.ndarray, face: Sighting) -> Quality:
        from rigface.face.quality import measure

        yaw, pitch, roll = face.degrees.tolist()
        landmarks, colours, occlusion = face.residuals.tolist()
        return measure(
            crop,
            face.landmarks * (len(crop) / CROP_PX),
            face.box,
            face.score,
            mask,
            yaw_deg=yaw,
            pitch_deg=pitch,
            roll_deg=roll,
            landmark_residual=landmarks,
            photometric_residual=colours,
            occlusion=occlusion,
        )


class FakeJudge:
    """The fakes of `parse` and `quality`."""

    def mask(self, crop: np.ndarray, face: Sighting) -> np.ndarray:
        from rigface.fake import fake_mask

        return fake_mask(crop)

    def quality(self, crop: np.ndarray, mask: np.ndarray, face: Sighting) -> Quality:
        from rigface.fake import fake_quality

        return fake_quality(face.box, face.score)


def judge(settings: Settings) -> Judge:
    """Mask and quality; fakes beside a fake reconstructor."""
    return FakeJudge() if settings.reconstructor == "fake" else ColourJudge()


class Specs:
    """Loads detector and reconstructor to ask what they are; lives in a child process, so that the driver stays small."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, argument: None, begin: Callable[[str], None]) -> tuple[HeadSpec, DetectorSpec]:
        return reconstructor(self._settings, "cpu").head_spec, detector(self._settings).spec


def specs(settings: Settings) -> tuple[HeadSpec, DetectorSpec]:
    """The head model and the detector that these settings name.

    Raises:
        MissingAsset: a model is not on this machine.
        PlanError: there is none of that name, or the two do not fit.
    """
    if (settings.detector, settings.reconstructor, settings.head) == ("mediapipe", "fit", "open"):
        return _usual_specs()
    child = Child("pipelines.parts:Specs", {"settings": settings}, silence_s=180)
    try:
        return child(None)
    except ValueError as e:
        raise PlanError(str(e)) from e
    finally:
        child.close()


def _usual_specs() -> tuple[HeadSpec, DetectorSpec]:
    """What loading would say, without loading: it takes seconds, which every start would pay. A test compares the two."""
    from rigface import assets
    from rigface.face.mediapipe_detector import BLENDSHAPES
    from rigface.face.open_head import OpenHead

    version = f"face_landmarker-{assets.fingerprint(assets.find('face_landmarker'))}"
    return OpenHead.load().spec, DetectorSpec("mediapipe", version, 478, BLENDSHAPES)
