"""Regressors of the Basel face model's coefficients: Face-Adapter's d3dfr and Deep3DFaceRecon.

Path: aligned pictures -> BaselRegressor -> coefficients -> the expression code (`expression_code.py`), `basel.py`.
Source: Deng et al., "Accurate 3D face reconstruction with weakly-supervised learning", CVPR workshops 2019; the layouts
of `d3dfr_res50_nofc.pth`, with which RigFace was trained, and of `epoch_20.pth`. Each coefficient group has a 1 x 1
convolution on ResNet-50's average; d3dfr's file spells their name `fianl_layers`.
"""

import os
from functools import partial

import torch
from torch import Tensor, nn

from rigface.face.networks.resnet50 import WIDTH, ResNet50
from rigface.face.networks.weight_files import build, part, read_weights, without_wrapper

GROUPS = (80, 64, 80, 3, 27, 2, 1)  # identity, expression, texture, angles, light, x and y, z
PUPILS = 4  # d3dfr's last group
EXPRESSION = slice(80, 144)


class BaselRegressor(nn.Module):
    """Regressor of Basel coefficients: ResNet-50 and a convolution per group."""

    def __init__(self, heads: str, groups: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = ResNet50()
        self._heads = heads
        self.add_module(heads, nn.ModuleList(nn.Conv2d(WIDTH, width, 1) for width in groups))

    def forward(self, pictures: Tensor) -> Tensor:
        """Coefficients (N, sum of the groups) of pictures (N, 3, H, W) RGB, normalised as the file wants."""
        x = self.backbone(pictures)[..., None, None]
        return torch.cat([head(x) for head in self.get_submodule(self._heads).children()], 1).flatten(1)


def load_d3dfr(path: str | os.PathLike[str], device: str = "cpu") -> BaselRegressor:
    """d3dfr from `d3dfr_res50_nofc.pth`: pictures of 256 px in [-1, 1] to 261 coefficients.

    Raises:
        MissingAsset, UnsafeFile, BadCheckpoint: see `weight_files.read_weights` and `build`.
    """
    make = partial(BaselRegressor, "fianl_layers", (*GROUPS, PUPILS))
    return build(make, without_wrapper(read_weights(path)), path, device)


def load_deep3d(path: str | os.PathLike[str], device: str = "cpu") -> BaselRegressor:
    """Deep3DFaceRecon from `epoch_20.pth`: pictures of 224 px in [0, 1] to 257 coefficients.

    Raises:
        MissingAsset, UnsafeFile, BadCheckpoint: see `weight_files.read_weights` and `build`.
    """
    weights = without_wrapper(part(read_weights(path), "net_recon", path))
    return build(partial(BaselRegressor, "final_layers", GROUPS), weights, path, device)
