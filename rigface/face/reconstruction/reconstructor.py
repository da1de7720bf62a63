"""Reconstructors from crops to coefficients, and their loader.

Path: 512 px crops, their landmarks, blendshape scores and tracks -> Reconstructor -> Fit -> the params columns.

`fit` is closed-form fitting: of the open head here (`landmark_fit.py` for the geometry, `appearance.py` for skin and
light), of FLAME in `flame_reconstructor.py`. The names of networks are in `network_reconstructor.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rigface.face.geometry.rotation import to_axis_angle
from rigface.face.head.heads import NAMES, load_head
from rigface.face.head.open_head import OpenHead
from rigface.face.reconstruction.albedo_light import Appearance
from rigface.face.reconstruction.appearance import OpenHeadAppearance
from rigface.face.reconstruction.flame_reconstructor import FlameFit
from rigface.face.reconstruction.landmark_fit import GeometryFitter
from rigface.face.reconstruction.network_reconstructor import EXPRESSION, NETWORKS, NetworkReconstructor, flame_2020
from rigface.face.reconstruction.protocol import CLOSED_FORM, Fit, Reconstructor
from rigface.face.reconstruction.refinement import Refined
from rigface.types import DetectorSpec, FaceParams


def load_reconstructor(
    name: str = "fit",
    head: str = "open",
    device: str = "cpu",
    detector: DetectorSpec | None = None,
    *,
    folder: str | None = None,
    shape: int = 100,
    expression: int = 50,
    half: bool = False,
    refine: int = 0,
    colours: bool = True,
) -> Reconstructor:
    """Load a reconstructor by name, and check, if a detector is given, that it reports what the reconstructor needs.

    Args:
        folder: an assets folder to search first, or the head's own.
        shape, expression: how many of FLAME's coefficients to store; at least those that a network gives.
        half: DECA and EMOCA compute in bfloat16: twice the speed on processors that have it, codes within about 1 %.
        refine: steps on colours and landmarks after it, see `Refined`.
        colours: fit skin and light too; False makes the open head's fit twice as fast, its albedo and light 0, and the
            residuals of colours NaN.

    Raises:
        ValueError: there is none, or it cannot drive that head, or not from what this detector reports.
        MissingAsset, BadCheckpoint, UnsafeFile: files of the head or the network are not there, or are others.
    """
    reconstructor: FitReconstructor | FlameFit | NetworkReconstructor
    if (name, head) == ("fit", "open"):
        reconstructor = FitReconstructor(device, colours=colours)
    elif name == "fit" and head in ("flame", "basel"):
        model = load_head(head, folder, shape, expression)
        reconstructor = FlameFit(model, device)
    elif head == "flame" and name in NETWORKS:
        model = load_head("flame", flame_2020(folder), max(shape, NETWORKS[name].shape), max(expression, EXPRESSION))
        reconstructor = NetworkReconstructor(name, model, folder, device, half=half)
    else:
        raise ValueError(
            f"no reconstructor {name!r} for the head {head!r}; there is 'fit' for {', '.join(NAMES)}, and for flame "
            f"{', '.join(NETWORKS)}"
        )
    if detector is not None:
        reconstructor.check(detector)
    if refine:
        return Refined(reconstructor, load_head("open") if head == "open" else model, refine, device)
    return reconstructor


class FitReconstructor:
    """Closed-form fitting of the open head to MediaPipe's 478 landmarks."""

    version = CLOSED_FORM

    def __init__(self, device: str = "cpu", head: OpenHead | None = None, colours: bool = True) -> None:
        head = head or OpenHead.load()
        self.head_spec = head.spec
        self._device = device
        self._geometry = GeometryFitter(head, device)
        self._delight = OpenHeadAppearance(head, device) if colours else None
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
        camera = torch.cat([geometry.scale[:, None], geometry.shift / geometry.scale[:, None]], dim=1)
        look = self._look(crops, geometry.points, geometry.rotation, camera, members)
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

    def _look(self, crops: Sequence[np.ndarray], *fitted: torch.Tensor) -> Appearance:
        if self._delight is not None:
            return self._delight.fit(crops, *fitted)
        count, unknown = len(crops), torch.full((len(crops),), torch.nan)
        return Appearance(torch.zeros(count, self.head_spec.albedo), torch.zeros(count, 9, 3), unknown, unknown)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
