"""Factories of the detector, identity network, reconstructor and parser that `Settings` names, real or fake.

Networks are loaded on use: the driver, the detect_faces actors and the GPU actors each load only what they need. All
raise MissingAsset if weights are not on this machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Protocol

import numpy as np

from pipelines.extract.config import MODELS, Settings
from pipelines.telemetry.worker_process import WorkerProcess
from rigface import assets
from rigface.errors import PlanError
from rigface.face import steps
from rigface.face.detection.detector import Detector
from rigface.face.detection.factory import load_detector
from rigface.face.detection.mediapipe import BLENDSHAPES
from rigface.face.head.open_head import OpenHead
from rigface.face.identity.arcface import ArcFace
from rigface.face.identity.dlib_embedding import DlibIdentity
from rigface.face.reconstruction.protocol import CLOSED_FORM, Reconstructor
from rigface.face.reconstruction.segmentation import Parser
from rigface.testing import fakes
from rigface.types import DetectorSpec, FaceParams, HeadSpec, Quality


class Identity(Protocol):
    """A face recognition network."""

    version: str
    width: int

    def chip(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        """The aligned input of the network; None if the landmarks have no extent."""
        ...

    def embed(self, chips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, width) float32 identity vectors of N chips."""
        ...


def detector(settings: Settings, device: str = "cpu") -> Detector:
    """The face detector; a device other than the CPU is for `mediapipe` alone, as `ExtractConfig` checks."""
    if settings.detector == "fake":
        return fakes.FakeDetector()
    if settings.detector == "insightface":  # the pack's own landmarks fit no reconstructor
        return load_detector("scrfd", small_faces=settings.small_faces, folder=settings.detector_folder or None)
    place = "" if device == "cpu" else device
    return load_detector(settings.detector, small_faces=settings.small_faces, device=place, matrices=False)


def identity(settings: Settings) -> Identity | None:
    """The face recognition network, or None."""
    if settings.identity == "none":
        return None
    if settings.identity == "fake":
        return fakes.FakeIdentity()
    if settings.identity == "arcface":
        return ArcFace(settings.identity_folder or settings.detector_folder or None)
    return DlibIdentity()


def reconstructor(settings: Settings, device: str, detector: DetectorSpec | None = None) -> Reconstructor:
    """The network or solver that turns crops into coefficients; ValueError if it fits no such head or detector."""
    if settings.reconstructor == "fake":
        return fakes.FakeReconstructor()
    from rigface.face.profile_networks import with_expression_codes  # imports torch
    from rigface.face.reconstruction.reconstructor import load_reconstructor

    loaded = load_reconstructor(
        settings.reconstructor,
        head=settings.head,
        device=device,
        detector=detector,
        folder=settings.head_folder or None,
        shape=settings.shape,
        expression=settings.expression,
        refine=settings.refine,
        half=settings.half,
        colours=needs_colours(settings),
    )
    return with_expression_codes(loaded, settings.expression_codes, device)


def needs_colours(settings: Settings) -> bool:
    """True if columns are wanted that come from the fit of skin and light."""
    return settings.refine > 0 or settings.wants(
        "albedo", "light", "photometric_residual", "occlusion", "confidence", "is_suspect"
    )


def needs_fit(settings: Settings) -> bool:
    """True if columns are wanted that come from the fit of the head, or are measured beside it."""
    return settings.wants(*(f.name for f in (*fields(FaceParams), *fields(Quality))))


def needs_mask(settings: Settings) -> bool:
    """True if columns are wanted that come from the person's mask."""
    return settings.wants("mask", "confidence", "exposure", "skin_tone_ita_deg")


def parser(settings: Settings, device: str) -> Parser:
    """The segmentation of the person in a crop."""
    if settings.parser == "fake":
        return fakes.fake_mask
    from rigface.face.reconstruction.parsers import load_parser  # imports torch

    return load_parser(
        settings.parser, settings.parser_folder or None, device, everything=settings.mask == "everything"
    )


def assess(
    settings: Settings,
) -> Callable[[steps.AlignedFaces, int, np.ndarray | None, np.ndarray, np.ndarray], Quality]:
    """The measure of quality, see `rigface.face.steps.assess`; a fake one beside a fake reconstructor."""
    return fakes.fake_quality if settings.reconstructor == "fake" else steps.assess


def to_degrees(settings: Settings) -> Callable[[np.ndarray], np.ndarray]:
    """Axis-angle rotations of heads (N, 3) -> yaw, pitch and roll in degrees; zeros for those of a fake fit."""
    if settings.reconstructor == "fake":
        return np.zeros_like
    from rigface.face.geometry import rotation  # imports torch

    return lambda axis_angle: rotation.to_degrees(rotation.to_matrix(axis_angle))


def is_fake(settings: Settings) -> bool:
    """True if no network is loaded, nor torch imported."""
    models = {settings.detector, settings.identity, settings.parser, settings.reconstructor}
    return models <= {"fake", "none"}


class Specs:
    """Loads all networks to get their specs; runs in a child process, so that the driver stays small."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, argument: None, begin: Callable[[str], None]) -> tuple[HeadSpec, DetectorSpec]:
        settings = self._settings
        spec = detector(settings).spec
        fitted, network = reconstructor(settings, "cpu", spec), identity(settings)
        known = {"identity": network.version, "identity_width": network.width} if network else {"identity": "none"}
        return fitted.head_spec, replace(
            spec,
            **known,
            parser=getattr(parser(settings, "cpu"), "version", settings.parser),
            expression_codes=getattr(fitted, "codes_version", ""),
            reconstructor=fitted.version,
        )


def specs(settings: Settings) -> tuple[HeadSpec, DetectorSpec]:
    """The head model and the detector, with the other networks, of these settings; PlanError if they do not fit."""
    if all(getattr(settings, name) == getattr(Settings, name) for name in MODELS):
        return _default_specs()
    if is_fake(settings):
        return Specs(settings)(None, lambda step: None)
    child = WorkerProcess("pipelines.extract.components:Specs", {"settings": settings}, silence_s=180)
    try:
        return child(None)
    except ValueError as e:
        raise PlanError(str(e)) from e
    finally:
        child.close()


def _default_specs() -> tuple[HeadSpec, DetectorSpec]:
    """The specs of the default models without loading them, which takes seconds. A test compares the two."""
    version = f"face_landmarker-{assets.fingerprint(assets.find('face_landmarker'))}"
    identity = f"dlib-{assets.fingerprint(assets.find('dlib_identity'))}"
    return OpenHead.load().spec, DetectorSpec(
        "mediapipe", version, 478, BLENDSHAPES, identity=identity, reconstructor=CLOSED_FORM
    )
