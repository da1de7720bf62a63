"""DECA's coarse encoder: a crop to FLAME's shape, texture, expression, pose, camera and light.

Path: crops of `official_crops.DECA` -> Deca -> FlameCodes -> `network_reconstructor.py`.
Source: Feng et al., "Learning an animatable detailed 3D face model from in-the-wild images", SIGGRAPH 2021; the layout
of `deca_model.tar`, of which `E_flame` alone is read.
"""

import os

import torch
from torch import Tensor, nn

from rigface.face.networks.flame_codes import FlameCodes
from rigface.face.networks.resnet50 import WIDTH, ResNet50
from rigface.face.networks.weight_files import build, part, read_weights, without_wrapper

_GROUPS = (100, 50, 50, 6, 3, 27)  # shape, texture, expression, head and jaw rotation, camera, light
OUTPUTS = sum(_GROUPS)


class CoarseEncoder(nn.Module):
    """DECA's encoder: ResNet-50 and two layers."""

    def __init__(self, outputs: int = OUTPUTS) -> None:
        super().__init__()
        self.encoder = ResNet50()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 1024), nn.ReLU(), nn.Linear(1024, outputs))

    def forward(self, crops: Tensor) -> Tensor:
        """(N, outputs) of crops (N, 3, 224, 224) RGB in [0, 1], not normalised."""
        return self.layers(self.encoder(crops))  # type: ignore[no-any-return]


class Deca(nn.Module):
    """DECA's coarse encoder with its numbers in groups."""

    def __init__(self, encoder: CoarseEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, crops: Tensor) -> FlameCodes:
        """Codes of N crops (N, 3, 224, 224) RGB in [0, 1]."""
        return flame_codes(self.encoder(crops))


def flame_codes(numbers: Tensor) -> FlameCodes:
    """DECA's numbers (N, 236), by group."""
    shape, texture, expression, pose, camera, light = torch.split(numbers, list(_GROUPS), dim=1)
    return FlameCodes(
        shape=shape,
        expression=expression,
        head_rotation=pose[:, :3],
        jaw_rotation=pose[:, 3:],
        camera=camera,
        texture=texture,
        light=torch.unflatten(light, 1, (9, 3)),
    )


def load_deca(path: str | os.PathLike[str], device: str = "cpu") -> Deca:
    """DECA from `deca_model.tar`; its detail networks and training state are not read.

    Raises:
        MissingAsset, UnsafeFile, BadCheckpoint: see `weight_files.read_weights` and `build`.
    """
    weights = without_wrapper(part(read_weights(path), "E_flame", path))
    return Deca(build(CoarseEncoder, weights, path, device))
