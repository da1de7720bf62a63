"""Expression codes of the Basel face model, which the released RigFace denoiser reads.

Path: 512 px crops and their landmarks -> ExpressionCoder -> `FaceParams.bfm_expression`.

RigFace was trained on the codes of d3dfr; Deep3DFaceRecon's are on the same basis and a second source. Codes are raw
coefficients of the 64 expression directions, as the networks give them; those of people reach 4.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from rigface import assets
from rigface.face.geometry import official_crops
from rigface.face.geometry.landmarks import five_points, sixty_eight
from rigface.face.networks.basel import EXPRESSION, load_d3dfr, load_deep3d
from rigface.types import CROP_PX

CODERS = ("d3dfr", "deep3d")
BATCH = 16  # pictures in memory at once


class ExpressionCoder(Protocol):
    """Reads an expression code off a face."""

    version: str

    def __call__(self, crops: Sequence[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
        """Codes of N faces: (N, 64) float32.

        Args:
            crops: N images (S, S, 3) uint8 RGB, the 512 px crops or smaller copies of them.
            landmarks: (N, L, 2+) px of the 512 px crop, in a layout of `landmarks.LAYOUTS`.

        Raises:
            ValueError: no layout has L points.
        """
        ...


def load_expression_coder(name: str, folder: str | Path | None = None, device: str = "cpu") -> ExpressionCoder:
    """Load a coder by name, one of `CODERS`.

    Args:
        folder: the weights' file, or an assets folder; None looks in `RIGFACE_ASSETS`.

    Raises:
        MissingAsset, BadCheckpoint, UnsafeFile: its files are not there, or are others.
        ValueError: there is no such coder.
    """
    if name not in CODERS:
        raise ValueError(f"no expression coder is called {name!r}; there are {', '.join(CODERS)}")
    return D3dfrCoder(folder, device) if name == "d3dfr" else Deep3dCoder(folder, device)


class D3dfrCoder:
    """The codes that RigFace was trained on; see `load_expression_coder`."""

    def __init__(self, folder: str | Path | None = None, device: str = "cpu") -> None:
        path = assets.find("d3dfr", folder)
        self.version = f"d3dfr-{assets.fingerprint(path)}"
        self._network, self._device = load_d3dfr(path, device), device

    def __call__(self, crops: Sequence[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
        """See `ExpressionCoder`."""
        codes = np.empty((len(crops), EXPRESSION.stop - EXPRESSION.start), np.float32)
        for start in range(0, len(crops), BATCH):
            part = slice(start, start + BATCH)
            points = [five_points(p) * _scale(crop) - 0.5 for crop, p in zip(crops[part], landmarks[part])]
            affines = official_crops.similarity(np.stack(points))
            with torch.inference_mode():
                pictures = official_crops.warp(crops[part], affines, official_crops.D3DFR_PX, self._device)
                codes[part] = self._network(pictures / 127.5 - 1)[:, EXPRESSION].cpu().numpy()
        return codes


class Deep3dCoder:
    """Codes of Deep3DFaceRecon; it also needs `similarity_Lm3D_all.mat`."""

    def __init__(self, folder: str | Path | None = None, device: str = "cpu") -> None:
        path = assets.find("deep3d", folder)
        self._model = official_crops.deep3d_model_points(assets.find("basel_landmarks", folder))
        self.version = f"deep3d-{assets.fingerprint(path)}"
        self._network, self._device = load_deep3d(path, device), device

    def __call__(self, crops: Sequence[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
        """See `ExpressionCoder`."""
        codes = np.empty((len(crops), EXPRESSION.stop - EXPRESSION.start), np.float32)
        for start in range(0, len(crops), BATCH):
            part = slice(start, start + BATCH)
            aligned = [self._aligned(crop, points) for crop, points in zip(crops[part], sixty_eight(landmarks[part]))]
            with torch.inference_mode():
                pictures = torch.from_numpy(np.stack(aligned)).to(self._device).permute(0, 3, 1, 2) / 255
                codes[part] = self._network(pictures)[:, EXPRESSION].cpu().numpy()
        return codes

    def _aligned(self, crop: np.ndarray, points: np.ndarray) -> np.ndarray:
        five = official_crops.deep3d_five(points[:, :2] * _scale(crop) - 0.5)
        return official_crops.deep3d_crop(crop, official_crops.deep3d_alignment(five, self._model, len(crop)))


def _scale(crop: np.ndarray) -> float:
    """Px of a crop, or of a smaller copy, per px of the 512 px crop."""
    return len(crop) / CROP_PX
