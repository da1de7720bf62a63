"""Reconstructor `fit` for FLAME and the Basel model: landmarks to geometry, colours to skin and light, no network.

Path: 512 px crops, their landmarks and tracks -> FlameFit -> Fit -> the params columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from rigface.face.geometry.rotation import to_axis_angle
from rigface.face.head.head_model import Head, part_of
from rigface.face.reconstruction.appearance import AppearanceFitter
from rigface.face.reconstruction.flame_fit import FlameGeometryFitter
from rigface.face.reconstruction.protocol import CLOSED_FORM, Fit
from rigface.types import DetectorSpec, FaceParams

LANDMARKS = 468  # MediaPipe's mesh; ten points more are the irises


class FlameFit:
    """Damped least squares on FLAME from MediaPipe's landmarks; the scores of blendshapes are not used.

    Args:
        head: FLAME with an albedo, as `heads.load_head` gives it; or the Basel model, which is as FLAME without joints.
    """

    version = CLOSED_FORM

    def __init__(self, head: Head, device: str = "cpu") -> None:
        self.head_spec = head.spec
        self._device = device
        self._geometry = FlameGeometryFitter(head, device)
        self._appearance = AppearanceFitter(head, device)
        self._surface = part_of(head, self._appearance.vertices.cpu()).to(device)
        self._seen = torch.arange(len(self._appearance.vertices), device=device)

    def check(self, detector: DetectorSpec) -> None:
        """Raise ValueError unless a detector reports MediaPipe's landmarks."""
        if detector.landmarks < LANDMARKS:
            raise ValueError(self._needs(detector.landmarks))

    def _needs(self, landmarks: int) -> str:
        return (
            f"the {self.head_spec.name} head is fitted to MediaPipe's {LANDMARKS}+ landmarks; this detector gives "
            f"{landmarks}. "
            "Use the mediapipe detector, or scrfd."
        )

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        """See `Reconstructor`; ValueError if the landmarks are not MediaPipe's."""
        if landmarks.shape[1] < LANDMARKS:
            raise ValueError(self._needs(landmarks.shape[1]))
        members = torch.from_numpy(np.array(tracks, np.int64)).to(self._device)
        found = self._geometry(torch.from_numpy(np.array(landmarks, np.float32)).to(self._device), members)
        extras = {"eye_rotations": found.eyes, "eyelids": found.lids}
        params = FaceParams(
            shape=found.shape,
            expression=found.expression,
            head_rotation=to_axis_angle(found.rotation),
            jaw_rotation=to_axis_angle(found.jaw),
            camera=found.camera,
            albedo=found.shape.new_zeros(len(crops), self.head_spec.albedo),
            light=found.shape.new_zeros(len(crops), 9, 3),
            **{name: value for name, value in extras.items() if name in self.head_spec.extras},
        )
        look = self._appearance.fit(crops, self._surface.of(params)[:, self._seen], found.camera, members)
        params = replace(params, albedo=look.albedo, light=look.light).map(_numpy)
        return Fit(params, _numpy(found.residual), _numpy(look.residual), _numpy(look.occlusion))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
