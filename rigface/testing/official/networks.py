"""Stand-ins for the networks' files: DECA, EMOCA, SMIRK, d3dfr, Deep3D and BiSeNet.

Path: write_deca ... -> a file with the official names and shapes -> the network's loader.
Source: the layouts as DECA, EMOCA, SMIRK, Face-Adapter, Deep3DFaceRecon and face-parsing.PyTorch publish them, by name
and shape alone.

The numbers are seeded. Last layers answer with a plain face, frontal and evenly lit, that varies a little with the
picture. To keep the files small, the entries of a weight are windows of one short sequence, which torch stores once.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

Names = dict[str, tuple[int, ...]]

_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
_LARGE = (  # MobileNetV3 "minimal": per stage, inner and outer channels of each block
    ((64, 24), (72, 24)),
    ((72, 40), (120, 40), (120, 40)),
    ((240, 80), (200, 80), (184, 80), (184, 80)),
    ((480, 112), (672, 112)),
    ((672, 160), (960, 160), (960, 160)),
)
_SMALL = (
    ((72, 24), (88, 24)),
    ((96, 40), (240, 40), (240, 40)),
    ((120, 48), (144, 48)),
    ((288, 96), (576, 96), (576, 96)),
)
_BASEL = (80, 64, 80, 3, 27, 2, 1)  # id, exp, tex, angle, gamma, shift, depth
_FRONTAL = (9.6, 0.0, 0.0013)  # camera that puts the open head's landmarks into the crops of DECA and SMIRK
_EVEN = (3.5, *[0.0] * 2, 0.4, *[0.0] * 5)  # harmonics of a soft light from the front


def write_deca(file: str | Path) -> None:
    """`deca_model.tar`: the coarse encoder beside parts that only training needs."""
    trained = {"E_detail": {"layers.2.bias": torch.zeros(128)}, "D_detail": {"l1.0.bias": torch.zeros(8192)}}
    state = {"param_groups": [{"lr": 1e-4, "params": [0]}], "state": {}}
    _save({"E_flame": _coarse(seed=1), **trained, "opt": state}, file)


def write_emoca(folder: str | Path, jaw: bool = True) -> None:
    """A model's `cfg.yaml` and `detail/checkpoints/*.ckpt`, which Lightning wrote with objects of OmegaConf in it."""
    folder = Path(folder)
    numbers = 53 if jaw else 50
    expression = _filled(deca_names(numbers), seed=2)
    _answer(expression, "layers.2", np.zeros(numbers), np.where(np.arange(numbers) < 50, 3.0, 0.3))
    state = {f"deca.E_flame.{name}": tensor for name, tensor in _coarse(seed=3).items()}
    state |= {f"deca.E_expression.{name}": tensor for name, tensor in expression.items()}
    state["deca.D_detail.l1.0.bias"] = torch.zeros(8192)
    module = ModuleType("omegaconf.dictconfig")
    module.DictConfig = type("DictConfig", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    settings = module.DictConfig()
    settings._content = {"model": {"exp_deca_jaw_pose": jaw}}
    checkpoints = folder / "detail" / "checkpoints"
    with patch.dict(sys.modules, {"omegaconf": ModuleType("omegaconf"), module.__name__: module}):
        content = {
            "epoch": 10,
            "global_step": 1,
            "pytorch-lightning_version": "1.4.9",
            "state_dict": OrderedDict(state),
        }
        _save({**content, "callbacks": {}, "hyper_parameters": settings}, checkpoints / "deca-epoch=10.ckpt")
    text = f"  model:\n    exp_deca_jaw_pose: {str(jaw).lower()}\n    n_exp: 50\n"
    (folder / "cfg.yaml").write_text(f"coarse:\n{text}detail:\n{text}")


def write_smirk(file: str | Path) -> None:
    """`SMIRK_em1.pt`: encoder and generator in one flat dictionary."""
    weights = _filled(smirk_names(), seed=4)
    _answer(weights, "pose_encoder.pose_cam_layers.0", np.array([0, 0, 0, *_FRONTAL]), 0.05)
    _answer(weights, "shape_encoder.shape_layers.0", np.zeros(300), 1.0)
    _answer(weights, "expression_encoder.expression_layers.0", np.zeros(55), 1.0)
    flat = {f"smirk_encoder.{name}": tensor for name, tensor in weights.items()}
    _save(flat | {"smirk_generator.final_conv.bias": torch.zeros(3)}, file)


def write_d3dfr(file: str | Path) -> None:
    """`d3dfr_res50_nofc.pth`: trained on several devices, so each name begins with `module.`."""
    heads = (*_BASEL, 4)
    weights = _filled(basel_names("fianl_layers", heads), seed=5)
    for place, width in enumerate(heads):
        _answer(weights, f"fianl_layers.{place}", np.zeros(width), 6.0)
    _save({f"module.{name}": tensor for name, tensor in weights.items()}, file)


def write_deep3d(file: str | Path) -> None:
    """`epoch_20.pth`: the network beside its optimiser."""
    weights = _filled(basel_names("final_layers", _BASEL), seed=6)
    for place, width in enumerate(_BASEL):
        _answer(weights, f"final_layers.{place}", np.zeros(width), 3.0)
    _save({"net_recon": weights, "opt_00": {"state": {}, "param_groups": []}, "sched_00": {"last_epoch": 20}}, file)


def write_bisenet(file: str | Path) -> None:
    """`79999_iter.pth`: a parser that calls about half of the pixels background."""
    weights = _filled(bisenet_names(), seed=7)
    last = weights["conv_out.conv_out.weight"].clone()
    last -= last.mean(1, keepdim=True)  # features are positive: a class would win everywhere or nowhere
    last[0] *= 8
    weights["conv_out.conv_out.weight"] = last
    _save(weights, file)


def deca_names(outputs: int) -> Names:
    """Names and shapes of `ResnetEncoder`: ResNet-50 and two linear layers."""
    layers: Names = {"layers.0.weight": (1024, 2048), "layers.0.bias": (1024,)}
    layers |= {"layers.2.weight": (outputs, 1024), "layers.2.bias": (outputs,)}
    return _below("encoder", _resnet(50)) | layers


def basel_names(heads: str, widths: tuple[int, ...]) -> Names:
    """Names and shapes of a network of Basel coefficients: ResNet-50 and a 1 x 1 convolution for each group."""
    names = _below("backbone", _resnet(50))
    for place, width in enumerate(widths):
        names |= _conv(f"{heads}.{place}", width, 2048) | {f"{heads}.{place}.bias": (width,)}
    return names


def smirk_names() -> Names:
    """Names and shapes of SMIRK's three encoders."""
    names: Names = {}
    for part, stages, layer, outputs in (
        ("pose", _SMALL, "pose_cam_layers", 6),
        ("shape", _LARGE, "shape_layers", 300),
        ("expression", _LARGE, "expression_layers", 55),
    ):
        width = 6 * stages[-1][-1][1]
        names |= _below(f"{part}_encoder.encoder", _mobilenet(stages, width))
        at = f"{part}_encoder.{layer}.0"
        names |= {f"{at}.weight": (outputs, width), f"{at}.bias": (outputs,)}
    return names


def bisenet_names() -> Names:
    """Names and shapes of BiSeNet on ResNet-18 with 19 classes."""
    names = _below("cp.resnet", _resnet(18))
    for at, into in (("cp.arm16", 256), ("cp.arm32", 512)):
        names |= _conv_norm(f"{at}.conv", 128, into, 3)
        names |= _conv(f"{at}.conv_atten", 128, 128) | _norm(f"{at}.bn_atten", 128)
    names |= _conv_norm("cp.conv_head16", 128, 128, 3) | _conv_norm("cp.conv_head32", 128, 128, 3)
    names |= _conv_norm("cp.conv_avg", 128, 512, 1) | _conv_norm("ffm.convblk", 256, 256, 1)
    names |= _conv("ffm.conv1", 64, 256) | _conv("ffm.conv2", 256, 64)
    for at, into, width in (("conv_out", 256, 256), ("conv_out16", 128, 64), ("conv_out32", 128, 64)):
        names |= _conv_norm(f"{at}.conv", width, into, 3) | _conv(f"{at}.conv_out", 19, width)
    return names


def _resnet(depth: int) -> Names:
    names = _conv("conv1", 64, 3, 7) | _norm("bn1", 64)
    before, growth = 64, 4 if depth == 50 else 1
    for stage, blocks in enumerate(_BLOCKS[depth]):
        width = 64 * 2**stage
        after = width * growth
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            deep = ((width, before, 1), (width, width, 3), (after, width, 1))
            for place, shape in enumerate(deep if depth == 50 else ((width, before, 3), (width, width, 3))):
                names |= _conv(f"{at}.conv{place + 1}", *shape) | _norm(f"{at}.bn{place + 1}", shape[0])
            if before != after:
                names |= _conv(f"{at}.downsample.0", after, before) | _norm(f"{at}.downsample.1", after)
            before = after
    return names


def _mobilenet(stages: tuple[tuple[tuple[int, int], ...], ...], width: int) -> Names:
    names = _conv("conv_stem", 16, 3, 3) | _norm("bn1", 16)
    names |= _conv("blocks.0.0.conv_dw", 16, 1, 3) | _norm("blocks.0.0.bn1", 16)
    names |= _conv("blocks.0.0.conv_pw", 16, 16) | _norm("blocks.0.0.bn2", 16)
    before = 16
    for stage, blocks in enumerate(stages, start=1):
        for block, (inner, outer) in enumerate(blocks):
            at = f"blocks.{stage}.{block}"
            names |= _conv(f"{at}.conv_pw", inner, before) | _norm(f"{at}.bn1", inner)
            names |= _conv(f"{at}.conv_dw", inner, 1, 3) | _norm(f"{at}.bn2", inner)
            names |= _conv(f"{at}.conv_pwl", outer, inner) | _norm(f"{at}.bn3", outer)
            before = outer
    at = f"blocks.{len(stages) + 1}.0"
    return names | _conv(f"{at}.conv", width, before) | _norm(f"{at}.bn1", width)


def _conv_norm(at: str, out: int, into: int, side: int) -> Names:
    return _conv(f"{at}.conv", out, into, side) | _norm(f"{at}.bn", out)


def _conv(at: str, out: int, into: int, side: int = 1) -> Names:
    return {f"{at}.weight": (out, into, side, side)}


def _norm(at: str, width: int) -> Names:
    numbers = ("weight", "bias", "running_mean", "running_var")
    return {f"{at}.{name}": (width,) for name in numbers} | {f"{at}.num_batches_tracked": ()}


def _below(prefix: str, names: Names) -> Names:
    return {f"{prefix}.{name}": shape for name, shape in names.items()}


def _coarse(seed: int) -> dict[str, Tensor]:
    """`E_flame`, which answers with a plain face: 236 numbers."""
    weights = _filled(deca_names(236), seed)
    light = np.repeat(_EVEN, 3)
    mean = np.concatenate([np.zeros(100 + 50 + 50 + 6), _FRONTAL, light])
    spread = np.concatenate([np.full(200, 1.0), np.full(6, 0.2), [0.5, 0.01, 0.01], np.full(27, 0.5)])
    _answer(weights, "layers.2", mean, spread)
    return weights


def _filled(names: Names, seed: int) -> dict[str, Tensor]:
    """Seeded weights under which activations keep their size."""
    random = np.random.RandomState(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in names.items():
        if not shape:
            weights[name] = torch.tensor(0)
        elif len(shape) > 1:
            weights[name] = _windows(random, shape, 1.4 / math.sqrt(math.prod(shape[1:])))
        else:
            kind = name.rpartition(".")[2]
            centre, size = {"weight": (0.7, 0.05), "running_var": (1.0, 0.1)}.get(kind, (0.0, 0.05))
            x = random.standard_normal(shape)
            weights[name] = torch.from_numpy(centre + size * (np.abs(x) if kind == "running_var" else x)).float()
    return weights


def _windows(random: np.random.RandomState, shape: tuple[int, ...], size: float) -> Tensor:
    """A weight whose rows are windows of one sequence, each a number further on."""
    inside = math.prod(shape[1:])
    numbers = torch.from_numpy(size * random.standard_normal(shape[0] - 1 + inside)).float()
    strides = [math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))]
    return numbers.as_strided(shape, (1, *strides))


def _answer(weights: dict[str, Tensor], layer: str, mean: np.ndarray, spread: float | np.ndarray) -> None:
    """Make a last layer answer with `mean`, plus `spread` times what it made of the picture."""
    shape = weights[f"{layer}.weight"].shape
    size = torch.as_tensor(np.broadcast_to(spread, (shape[0],)).copy()).float()
    rows = weights[f"{layer}.weight"].flatten(1)
    rows = rows - rows.mean(1, keepdim=True)  # what is common to all features says nothing of the picture
    weights[f"{layer}.weight"] = (rows * size[:, None]).reshape(shape)
    weights[f"{layer}.bias"] = torch.from_numpy(mean).float()


def _save(content: dict[str, Any], file: str | Path) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
