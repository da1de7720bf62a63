"""SMIRK's encoder: a crop to FLAME's shape, expression, eyelids, pose and camera.

Path: crops of `official_crops.SMIRK` -> Smirk -> FlameCodes -> `network_reconstructor.py`.
Source: Retsinas et al., "3D facial expressions through analysis-by-neural-synthesis", CVPR 2024; the layout of
`SMIRK_em1.pt`. It has no light and no texture. The file's generator serves training and is not read.
"""

import os

import torch
from torch import Tensor, nn

from rigface.face.networks.flame_codes import FlameCodes
from rigface.face.networks.mobilenet_v3 import LARGE, SMALL, MobileNetV3, Stages
from rigface.face.networks.weight_files import below, build, read_weights, without_wrapper

SHAPE, EXPRESSION, EYELIDS, JAW = 300, 50, 2, 3
_MAX_JAW = 0.2  # rad, about the two axes that do not open it


class Branch(nn.Module):
    """A backbone and a linear layer, under the name that the file has for it."""

    def __init__(self, stages: Stages, layer: str, outputs: int) -> None:
        super().__init__()
        self.encoder = MobileNetV3(stages)
        self._layer = layer
        self.add_module(layer, nn.Sequential(nn.Linear(self.encoder.width, outputs)))

    def forward(self, crops: Tensor) -> Tensor:
        return self.get_submodule(self._layer)(self.encoder(crops))  # type: ignore[no-any-return]


class Smirk(nn.Module):
    """SMIRK's encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.pose_encoder = Branch(SMALL, "pose_cam_layers", 6)
        self.shape_encoder = Branch(LARGE, "shape_layers", SHAPE)
        self.expression_encoder = Branch(LARGE, "expression_layers", EXPRESSION + EYELIDS + JAW)

    def forward(self, crops: Tensor) -> FlameCodes:
        """Codes of N crops (N, 3, 224, 224) RGB in [0, 1]: 300 of shape, no texture, no light."""
        rotation, camera = self.pose_encoder(crops).split([3, 3], 1)
        expression, eyelids, jaw = self.expression_encoder(crops).split([EXPRESSION, EYELIDS, JAW], 1)
        return FlameCodes(
            shape=self.shape_encoder(crops),
            expression=expression,
            head_rotation=rotation,
            jaw_rotation=torch.cat([jaw[:, :1].relu(), jaw[:, 1:].clamp(-_MAX_JAW, _MAX_JAW)], 1),
            camera=camera,
            eyelids=eyelids.clamp(0, 1),
        )


def load_smirk(path: str | os.PathLike[str], device: str = "cpu") -> Smirk:
    """SMIRK from `SMIRK_em1.pt`.

    Raises:
        MissingAsset, UnsafeFile, BadCheckpoint: see `weight_files.read_weights` and `build`.
    """
    return build(Smirk, below(without_wrapper(read_weights(path)), "smirk_encoder."), path, device)
