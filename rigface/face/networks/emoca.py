"""EMOCA's encoders: DECA's, and a second one for the expression.

Path: crops of `official_crops.DECA` -> Emoca -> FlameCodes -> `network_reconstructor.py`.
Source: Danecek, Black and Bolkart, "EMOCA: Emotion driven monocular face capture and animation", CVPR 2022; the names
in its Lightning checkpoint. The second encoder's 50 numbers replace the expression; if it has 53, the last three
replace the jaw's rotation, as `exp_deca_jaw_pose` in `cfg.yaml` says.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile
from rigface.face.head.safe_pickle import load_torch_zip
from rigface.face.networks.deca import CoarseEncoder, flame_codes
from rigface.face.networks.flame_codes import FlameCodes
from rigface.face.networks.weight_files import below, build

EXPRESSION, JAW = 50, 3


class Emoca(nn.Module):
    """EMOCA's two encoders."""

    def __init__(self, coarse: CoarseEncoder, expression: CoarseEncoder) -> None:
        super().__init__()
        self.coarse, self.expression = coarse, expression

    def forward(self, crops: Tensor) -> FlameCodes:
        """Codes of N crops (N, 3, 224, 224) RGB in [0, 1]."""
        codes, numbers = flame_codes(self.coarse(crops)), self.expression(crops)
        codes = replace(codes, expression=numbers[:, :EXPRESSION])
        return replace(codes, jaw_rotation=numbers[:, EXPRESSION:]) if numbers.shape[1] > EXPRESSION else codes


def load_emoca(path: str | os.PathLike[str], device: str = "cpu") -> Emoca:
    """EMOCA from its Lightning checkpoint `.ckpt`; the networks for training in it are not read.

    Raises:
        MissingAsset: there is no such file.
        UnsafeFile: it is damaged, or its `state_dict` holds more than tensors; nothing was executed.
        BadCheckpoint: see `weight_files.build`; also if the expression encoder gives neither 50 nor 53 numbers.
    """
    weights = _lightning_tensors(Path(path))
    second = below(weights, "deca.E_expression.")
    second = {(f"encoder.{k[7:]}" if k.startswith("resnet.") else k): v for k, v in second.items()}  # `deca_parallel`
    outputs = len(second.get("layers.2.bias", ()))
    if second and outputs not in (EXPRESSION, EXPRESSION + JAW):
        raise BadCheckpoint(
            f"{path}: want an expression encoder of {EXPRESSION} numbers, or of {EXPRESSION + JAW} with the jaw, "
            f"got {outputs}"
        )
    return Emoca(
        build(CoarseEncoder, below(weights, "deca.E_flame."), path, device),
        build(partial(CoarseEncoder, outputs or EXPRESSION), second, path, device),
    )


def _lightning_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a Lightning checkpoint; its settings, objects of other packages, are not read."""
    if not path.is_file():
        raise MissingAsset(f"{path} is not there")
    try:
        state = load_torch_zip(path)
    except UnsafeFile as error:
        raise UnsafeFile(f"{path}: {error}") from error
    return {name: torch.from_numpy(array) for name, array in state.items() if isinstance(array, np.ndarray)}
