"""LoRA files of Stable Diffusion 1.5, as the community shares them, in peft's layout.

Path: one `.safetensors` file in kohya's or diffusers' names -> write_adapter -> a folder for `Adapters`.

The denoiser is adapted, as it is the network that draws. The file's part for the text encoder is not used: prompts have
little part in these models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from peft import LoraConfig
from torch import Tensor

from rigface.errors import BadCheckpoint
from rigface.model.weights import read_safetensors, write_safetensors

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"  # its name in a folder of diffusers
_UNET = "unet."
_to_peft: Any = convert_unet_state_dict_to_peft  # the library's function has no types


def write_adapter(file: Path, folder: Path) -> None:
    """Write a LoRA file as an adapter of the denoiser: `adapter_config.json`, `adapter_model.safetensors`.

    A module's scale (alpha / rank) goes into its second matrix.

    Raises:
        MissingAsset: there is no such file.
        BadCheckpoint: it is damaged, or is no LoRA of a Stable Diffusion 1.5 UNet.
    """
    try:
        tensors, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(read_safetensors(file))
        matrices = _to_peft(_of_unet(tensors))
        alphas = {name.removesuffix(".alpha"): alpha for name, alpha in _of_unet(alphas or {}).items()}
        scales = {_module(name): alpha for name, alpha in _to_peft(alphas).items()}
    except (ValueError, KeyError, AttributeError, IndexError) as error:
        raise BadCheckpoint(f"{file}: want a LoRA of Stable Diffusion 1.5, this is read as none: {error}") from error
    ranks = {_module(name): len(matrix) for name, matrix in matrices.items() if ".lora_A." in name}
    strange = [name for name in matrices if _module(name) not in ranks]
    if not ranks or strange:
        came = f"it also holds {strange[0]}" if ranks else "it has no matrices for a UNet"
        raise BadCheckpoint(f"{file}: want a LoRA of Stable Diffusion 1.5; {came}")
    state: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        module = _module(name)
        scale = scales.get(module, ranks[module]) / ranks[module] if ".lora_B." in name else 1.0
        state[f"base_model.model.denoiser.{name}"] = matrix.float() * scale
    own = {f"denoiser.{module}": rank for module, rank in ranks.items()}
    rank = next(iter(own.values()))
    LoraConfig(
        r=rank, lora_alpha=rank, target_modules=sorted(own), rank_pattern=own, alpha_pattern=own
    ).save_pretrained(str(folder))
    write_safetensors(folder / "adapter_model.safetensors", state)


def _of_unet(named: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(_UNET): value for name, value in named.items() if name.startswith(_UNET)}


def _module(name: str) -> str:
    """The module that a matrix or a scale belongs to."""
    return name.partition(".lora_")[0]
