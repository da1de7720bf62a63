"""Networks that a profile names: detector, reconstructor with expression codes, parser.

Path: FaceProfile -> `load_profile_detector`, `load_profile_reconstructor`, `load_profile_parser` -> FaceAnalyzer,
FaceEstimator. All raise MissingAsset for a network that is not on this machine.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rigface.face.detection.detector import Detector
from rigface.face.detection.factory import load_detector
from rigface.face.reconstruction.expression_code import ExpressionCoder, load_expression_coder
from rigface.face.reconstruction.parsers import load_parser
from rigface.face.reconstruction.protocol import Fit, Reconstructor
from rigface.face.reconstruction.reconstructor import load_reconstructor
from rigface.face.reconstruction.segmentation import Parser
from rigface.profile import FaceProfile

DETECTORS = {"mediapipe": "mediapipe", "insightface": "scrfd"}  # a pack's own landmarks fit no reconstructor


def load_profile_detector(profile: FaceProfile, *, small_faces: bool = False) -> Detector:
    """The detector of a profile."""
    return load_detector(DETECTORS[profile.detector], small_faces=small_faces)


def load_profile_reconstructor(profile: FaceProfile, device: str = "cpu", *, with_codes: bool = True) -> Reconstructor:
    """The reconstructor of a profile; `with_codes`: with the profile's expression codes, if it names some."""
    reconstructor = load_reconstructor(profile.reconstructor, head=profile.head, device=device)
    return with_expression_codes(reconstructor, profile.expression_codes if with_codes else "none", device)


def load_profile_parser(profile: FaceProfile, device: str = "cpu") -> Parser:
    """The parser of a profile, whose masks hold what the profile says."""
    return load_parser(profile.parser, device=device, everything=profile.mask == "everything")


def with_expression_codes(reconstructor: Reconstructor, codes: str, device: str = "cpu") -> Reconstructor:
    """The reconstructor, with the expression codes of a network; `none`: itself."""
    if codes == "none":
        return reconstructor
    return CodedReconstructor(reconstructor, load_expression_coder(codes, device=device))


def without_codes(reconstructor: Reconstructor) -> Reconstructor:
    """The same reconstructor without expression codes, for faces that are only measured."""
    return reconstructor.inner if isinstance(reconstructor, CodedReconstructor) else reconstructor


class CodedReconstructor:
    """A reconstructor whose faces also have the expression code (`FaceParams.bfm_expression`) of another network."""

    def __init__(self, inner: Reconstructor, coder: ExpressionCoder) -> None:
        self.head_spec, self.inner, self._coder = inner.head_spec, inner, coder
        self.version, self.codes_version = inner.version, coder.version

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        """See `Reconstructor`."""
        fit = self.inner(crops, landmarks, blendshapes, tracks)
        return replace(fit, params=replace(fit.params, bfm_expression=self._coder(crops, landmarks)))
