"""Reconstructors from crops to coefficients, and their loader.

Path: 512 px crops, their landmarks, blendshape scores and tracks -> Reconstructor -> Fit -> the params columns.

`fit` (here) is closed-form fitting of the open head: `landmark_fit.py` for the geometry, `albedo_light.py` for skin and
light. A network such as DECA is another implementation of the same Protocol.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from rigface.face.geometry.rotation import to_axis_angle
from rigface.face.head.open_head import OpenHead
from rigface.face.reconstruction.albedo_light import AlbedoLightSolver
from rigface.face.reconstruction.landmark_fit import GeometryFitter
from rigface.face.reconstruction.protocol import Fit, Reconstructor
from rigface.image import resized, srgb_to_linear
from rigface.types import DetectorSpec, FaceParams

BATCH = 64  # faces whose colours are in memory at once
SAMPLING_PX = 256  # colours are read from crops of this size: half resolution averages noise away
EDGE = 0.99  # crop units; colours outside come from the replicated border


def load_reconstructor(
    name: str = "fit", head: str = "open", device: str = "cpu", detector: DetectorSpec | None = None
) -> Reconstructor:
    """Load a reconstructor by name, and check, if a detector is given, that it reports what the reconstructor needs.

    ValueError if there is none, or it cannot drive that head, or not from what this detector reports.
    """
    if (name, head) != ("fit", "open"):
        raise ValueError(f"no reconstructor {name!r} for the head {head!r}; there is 'fit' for 'open'")
    reconstructor = FitReconstructor(device)
    if detector is not None:
        reconstructor.check(detector)
    return reconstructor


class FitReconstructor:
    """Closed-form fitting of the open head to MediaPipe's 478 landmarks."""

    def __init__(self, device: str = "cpu", head: OpenHead | None = None) -> None:
        head = head or OpenHead.load()
        self.head_spec = head.spec
        self._device = device
        self._geometry = GeometryFitter(head, device)
        self._delight = AlbedoLightSolver(head, device)
        self._points = len(head.template)

    def check(self, detector: DetectorSpec) -> None:
        """Raise ValueError unless a detector reports what the fit needs."""
        if detector.landmarks < self._points or len(detector.blendshape_names) != self.head_spec.expression:
            raise ValueError(self._needs(detector.landmarks, len(detector.blendshape_names)))

    def _needs(self, landmarks: int, scores: int) -> str:
        return (
            f"the open head is fitted to MediaPipe's {self._points}+ landmarks and {self.head_spec.expression} "
            "blendshapes; "
            f"this detector gives {landmarks} landmarks and {scores or 'no'} blendshapes. "
            "Use the mediapipe detector, or scrfd, with this head."
        )

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        """See `Reconstructor`; ValueError if the landmarks are not MediaPipe's, or their scores are missing."""
        if blendshapes is None or landmarks.shape[1] < self._points:
            raise ValueError(self._needs(landmarks.shape[1], 0 if blendshapes is None else blendshapes.shape[1]))
        device = self._device
        members = torch.from_numpy(np.array(tracks, np.int64)).to(device)
        points = torch.from_numpy(np.array(landmarks[:, : self._points], np.float32)).to(device)
        geometry = self._geometry(points, torch.from_numpy(np.array(blendshapes, np.float32)).to(device), members)
        colours, normals, inside = [], [], []
        for start in range(0, max(len(crops), 1), BATCH):
            part = slice(start, start + BATCH)
            places, normal = self._delight.surface(geometry.points[part])
            normals.append(normal @ geometry.rotation[part].mT)
            seen = (places @ geometry.rotation[part].mT)[..., :2]
            projected = geometry.scale[part, None, None] * seen + geometry.shift[part, None]
            colour, within = sample_colours(crops[part], projected.cpu().numpy())
            colours.append(torch.from_numpy(colour).to(device))
            inside.append(torch.from_numpy(within).to(device))
        look = self._delight(torch.cat(colours), torch.cat(normals), torch.cat(inside), members)
        camera = torch.cat([geometry.scale[:, None], geometry.shift / geometry.scale[:, None]], dim=1)
        rotation = to_axis_angle(geometry.rotation)
        params = FaceParams(
            shape=geometry.shape,
            expression=geometry.expression,
            head_rotation=rotation,
            jaw_rotation=torch.zeros_like(rotation),
            camera=camera,
            albedo=look.albedo,
            light=look.light,
        ).map(_numpy)
        return Fit(params, _numpy(geometry.residual), _numpy(look.residual), _numpy(look.occlusion))


def sample_colours(crops: Sequence[np.ndarray], places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read linear colours at points of N crops (S, S, 3) uint8 sRGB, bilinearly at half resolution.

    Places (N, V, 2) are crop units, y up. Returns (N, V, 3) float32 linear in [0, 1], and (N, V) bool: the point is
    inside the crop.
    """
    inside = (np.abs(places) < EDGE).all(-1)
    pixel = ((places * (1, -1) + 1) * (SAMPLING_PX / 2) - 0.5).astype(np.float32)
    out = np.empty((*places.shape[:2], 3), np.float32)
    for i, picture in enumerate(crops):
        small = resized(picture, SAMPLING_PX).astype(np.float32)
        out[i] = cv2.remap(
            small, pixel[i, None, :, 0], pixel[i, None, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[0]
    return srgb_to_linear(out / 255), inside


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
