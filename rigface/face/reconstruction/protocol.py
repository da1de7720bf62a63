"""Interface of a face reconstructor: crops and landmarks in, coefficients and residuals out.

Path: AlignedFaces -> Reconstructor -> Fit -> the params columns. Free of torch, so that drivers and fakes can import
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rigface.types import FaceParams, HeadSpec

CLOSED_FORM = "fit 3"  # version of closed-form fits; 3 tells light and skin apart by the whole frame's white


@dataclass(frozen=True, eq=False)
class Fit:
    """N reconstructed faces, numpy float32."""

    params: FaceParams  # coefficients, batch (N,)
    landmark_residual: np.ndarray  # (N,) RMS distance of landmarks and fitted head, in outer-eye distances
    photometric_residual: np.ndarray  # (N,) median absolute difference of crop and model on visible skin, sRGB [0, 1]
    occlusion: np.ndarray  # (N,) share of the visible skin that does not look like skin in this light


class Reconstructor(Protocol):
    """Fits one head model to crops of faces."""

    head_spec: HeadSpec
    version: str  # network with the hash of its file and what is fitted beside it, or that of the closed-form fit

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        """Reconstruct N faces.

        Args:
            crops: N images (S, S, 3) uint8 RGB, the 512 px crops or smaller copies of them.
            landmarks: (N, L, 3) float32 crop px, z negative towards the camera.
            blendshapes: (N, B) float32 scores in [0, 1], or None if the detector reports none.
            tracks: (N,) int; faces with the same number are one person and share shape and albedo.
        """
        ...
