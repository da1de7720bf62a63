"""Reconstructors `deca`, `emoca`, `smirk`: a network reads FLAME's coefficients off each crop.

Path: 512 px crops and their landmarks -> the authors' crop -> network -> FlameCodes -> Fit -> the params columns.

Cameras are converted from the authors' crop to ours. DECA and EMOCA also read light and the coefficients of FLAME's
texture; SMIRK reads neither, and without a texture file DECA's have no meaning: then both are fitted to the colours
(`appearance.py`). Faces of one track get the mean of their shapes and textures.

Shape suffixes: N faces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rigface import assets
from rigface.errors import MissingAsset
from rigface.face.geometry import official_crops
from rigface.face.geometry.camera import project
from rigface.face.geometry.landmarks import LAYOUTS, sixty_eight
from rigface.face.head.flame import models_in
from rigface.face.head.head_model import Head
from rigface.face.networks.deca import load_deca
from rigface.face.networks.emoca import load_emoca
from rigface.face.networks.flame_codes import FlameCodes
from rigface.face.networks.smirk import load_smirk
from rigface.face.networks.weight_files import halve
from rigface.face.reconstruction.appearance import AppearanceFitter
from rigface.face.reconstruction.landmark_fit import to_crop_unit
from rigface.face.reconstruction.protocol import CLOSED_FORM, Fit
from rigface.types import CROP_PX, DetectorSpec, FaceParams

BATCH = 8  # crops in the network at once; more are no faster on a processor
_INNER = 17  # of the 68 points the first are the outline, which each detector draws elsewhere
_OUTER_EYES = (36, 45)  # of the 68: their distance is the unit of the residual
FLAME_2020 = "generic_model.pkl"
EXPRESSION = 50  # coefficients that each of the networks gives
_TEXTURES = ("flame", "basel")  # sources of an albedo that DECA's texture coefficients are about


@dataclass(frozen=True)
class Network:
    """An encoder: its file, loader, crop and number of shape coefficients."""

    asset: str
    load: Callable[[Path, str], nn.Module]  # its forward gives FlameCodes
    rule: official_crops.SquareRule
    shape: int = 100
    has_light: bool = True  # and the coefficients of a texture


NETWORKS = {
    "deca": Network("deca", load_deca, official_crops.DECA),
    "deca-rigface": Network("deca", load_deca, official_crops.RIGFACE_DECA),  # as the released RigFace model wants it
    "emoca": Network("emoca", load_emoca, official_crops.DECA),
    "smirk": Network("smirk", load_smirk, official_crops.SMIRK, shape=300, has_light=False),
}


class NetworkReconstructor:
    """A network that reads FLAME's coefficients off a crop. Stateless between calls.

    Args:
        name: one of `NETWORKS`.
        head: FLAME 2020 (`flame_2020`) with an albedo, as `heads.load_head` gives it, with at least the network's
            coefficients.
        folder: an assets folder to search first for the network; None looks in `RIGFACE_ASSETS`.
        half: ResNet-50 computes in bfloat16 (see `weight_files.halve`).

    Raises:
        MissingAsset, BadCheckpoint, UnsafeFile: the network's file is not there, or is another.
        ValueError: the head is not FLAME, or has fewer coefficients.
    """

    def __init__(
        self, name: str, head: Head, folder: str | Path | None = None, device: str = "cpu", *, half: bool = False
    ) -> None:
        network, spec = NETWORKS[name], head.spec
        if spec.name != "flame" or spec.shape < network.shape or spec.expression < EXPRESSION:
            raise ValueError(
                f"{name} gives FLAME's coefficients, {network.shape} of shape and {EXPRESSION} of expression; the head "
                f"{spec.name!r} has {spec.shape} and {spec.expression}"
            )
        path = assets.find(network.asset, folder)
        path = checkpoint_in(path) if path.is_dir() else path
        self.head_spec = spec
        self._reads_colours = network.has_light and spec.albedo_source.partition(":")[0] in _TEXTURES
        fitted = "" if self._reads_colours else f", albedo and light by {CLOSED_FORM}"
        self.version = f"{name}-{assets.fingerprint(path)}{fitted}"
        encoder = network.load(path, device)
        self._network = halve(encoder) if half else encoder
        self._rule, self._device = network.rule, device
        self._appearance = AppearanceFitter(head, device)
        self._head = head.to(device)

    def check(self, detector: DetectorSpec) -> None:
        """Raise ValueError unless a detector reports landmarks that the crop can be cut by."""
        if detector.landmarks not in LAYOUTS:
            raise ValueError(
                f"{self.version}: the crop is cut by landmarks; want a detector with {' or '.join(map(str, LAYOUTS))} "
                f"of them, {detector.name} gives {detector.landmarks}"
            )

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        """See `Reconstructor`; ValueError if no layout has this many landmarks. The scores are not used."""
        members = torch.from_numpy(np.unique(tracks, return_inverse=True)[1]).to(self._device)
        points = sixty_eight(np.asarray(landmarks, np.float32))
        with torch.inference_mode():
            whole = points[..., :2] - 0.5  # the authors' pixel centres are whole numbers
            squares = official_crops.square_around(whole, self._rule)
            codes = self._codes(crops, squares)
            params = self._params(codes, squares, members)
            vertices = self._head.of(params)
            if self._reads_colours:
                look = self._appearance.explain(crops, vertices, params.camera, params.albedo, params.light)
            else:
                look = self._appearance.fit(crops, vertices, params.camera, members)
                params = replace(params, albedo=look.albedo, light=look.light)
            residual = self._residual(vertices, params, torch.from_numpy(points).to(self._device))
        return Fit(params.map(_numpy), _numpy(residual), _numpy(look.residual), _numpy(look.occlusion))

    def _codes(self, crops: Sequence[np.ndarray], squares: np.ndarray) -> FlameCodes:
        parts = []
        for start in range(0, max(len(crops), 1), BATCH):
            part = slice(start, start + BATCH)
            scale = np.array([[len(crop) / CROP_PX] for crop in crops[part]])  # of a smaller copy
            scaled = np.concatenate([(squares[part, :2] + 0.5) * scale - 0.5, squares[part, 2:] * scale], 1)
            parts.append(self._network(official_crops.flame_crops(crops[part], scaled, self._rule, self._device)))
        return FlameCodes.joined(parts)

    def _params(self, codes: FlameCodes, squares: np.ndarray, members: Tensor) -> FaceParams:
        """Coefficients of N faces in the 512 px crop; what the network does not read is zero."""
        spec, count = self.head_spec, len(members)
        texture = codes.shape.new_zeros(count, 0) if codes.texture is None else codes.texture
        extras: dict[str, Any] = {"eye_rotations": codes.shape.new_zeros(count, 2, 3), "eyelids": codes.eyelids}
        if codes.eyelids is None:
            extras["eyelids"] = codes.shape.new_zeros(count, 2)
        return FaceParams(
            shape=_sized(_mean_by(members, codes.shape), spec.shape),
            expression=_sized(codes.expression, spec.expression),
            head_rotation=codes.head_rotation,
            jaw_rotation=codes.jaw_rotation,
            camera=official_crops.square_camera(codes.camera, squares),
            albedo=_sized(_mean_by(members, texture), spec.albedo),
            light=codes.shape.new_zeros(count, 9, 3) if codes.light is None else codes.light,
            **{name: value for name, value in extras.items() if name in spec.extras},
        )

    def _residual(self, vertices: Tensor, params: FaceParams, points: Tensor) -> Tensor:
        """(N,) RMS distance of FLAME's inner landmarks and the given ones, in outer-eye distances of the head."""
        inner = project(self._head.landmarks2d(vertices, params.head_rotation)[:, _INNER:], params.camera)
        off = inner[..., :2] - to_crop_unit(points)[:, _INNER:, :2]
        right, left = (inner[:, k - _INNER] for k in _OUTER_EYES)
        residual: Tensor = off.square().sum(-1).mean(1).sqrt() / (right - left).norm(dim=-1)
        return residual


def flame_2020(folder: str | Path | None = None) -> Path:
    """The model whose directions the networks' coefficients are about.

    Args:
        folder: an assets folder to search first, or FLAME's own folder or file.

    Raises:
        MissingAsset: there is no FLAME, or another one alone.
    """
    models = models_in(assets.find("flame", folder))
    for path in models:
        if path.name == FLAME_2020:
            return path
    raise MissingAsset(
        f"DECA, EMOCA and SMIRK give coefficients of FLAME 2020, want {FLAME_2020}; {models[0].parent} has "
        f"{', '.join(path.name for path in models)}, whose directions are others. Fit it by `--reconstructor fit`, or "
        "add the file of FLAME 2020"
    )


def checkpoint_in(folder: Path) -> Path:
    """The Lightning checkpoint in a folder of EMOCA, that of its detail stage if there are several."""
    return max(sorted(folder.rglob("*.ckpt")), key=lambda path: "detail" in path.parts)


def _mean_by(members: Tensor, values: Tensor) -> Tensor:
    """Each row replaced by the mean of the rows of its group; members (N,) int64 number the groups."""
    groups = int(members.max()) + 1 if len(members) else 0
    total = values.new_zeros(groups, values.shape[1]).index_add(0, members, values)
    mean: Tensor = total / torch.bincount(members, minlength=groups)[:, None]
    return mean[members]


def _sized(values: Tensor, width: int) -> Tensor:
    """Coefficients cut to a width, or followed by zeros."""
    return F.pad(values, (0, width - values.shape[1]))


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
