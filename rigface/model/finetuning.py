"""Choose the weights that are trained: all, the new inputs alone, the attention layers, or a LoRA adapter.

Path: `RigFaceModel` -> `select` -> optimizer; with LoRA, trained weights -> `write_adapter` -> a folder in peft's
layout (`adapters.py` reads it), and `merged` -> weights with the adapter in them, under diffusers' stock names.
Source: LoRA (Hu et al. 2021): W + (alpha / r) B A with B = 0 at the start, so that step 0 is the model that was loaded.
The paper's method trains `all`; the others are for GPUs on which that does not fit, and to compare with.

Every choice trains the layers that take the conditions (`INPUTS`). They start at zero in Stable Diffusion, so that a
denoiser in which they are frozen can never see background, render or expression code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from rigface.model.attention import blocks
from rigface.model.unets import RigFaceModel, dead_tail
from rigface.model.weights import write_safetensors

if TYPE_CHECKING:
    from peft import PeftModel

TRAINABLE = ("all", "inputs", "attention", "lora")
INPUTS = ("conv_in", "class_embedding")  # layers of the denoiser that take background, render and expression code
_ADAPTED = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"


def select(model: RigFaceModel, trainable: str = "all", rank: int = 16) -> int:
    """Freeze all weights but those to train, and count these; with `lora`, add an adapter.

    It is scaled by alpha / rank with alpha = rank, that is, by one. ValueError for an unknown choice.
    """
    if trainable not in TRAINABLE:
        raise ValueError(f"trainable: want one of {', '.join(TRAINABLE)}, got {trainable!r}")
    if trainable == "lora":
        add_lora(model, rank)
    else:
        model.requires_grad_(trainable == "all")
        for layer in INPUTS:
            model.denoiser.get_submodule(layer).requires_grad_(True)
        for network in (model.identity, model.denoiser):
            for _, block in blocks(network):
                for attention in (block.attn1, block.attn2):
                    if attention is not None and trainable == "attention":
                        attention.requires_grad_(True)
        for parameter in dead_tail(model.identity):
            parameter.requires_grad_(False)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def add_lora(model: RigFaceModel, rank: int) -> PeftModel:
    """Add a fresh adapter to the attention layers, in place; all else is frozen.

    The inputs are trained whole and saved with the adapter: they are small, and the only way in for the conditions.
    """
    from peft import LoraConfig, get_peft_model

    last = [name for name, _ in blocks(model.identity) if name.startswith("up_blocks.")][-1]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=_ADAPTED,
        exclude_modules=rf"identity\.{re.escape(last)}\..*",  # after the last recorded tokens: no output depends on it
        modules_to_save=[f"denoiser.{layer}" for layer in INPUTS],
    )
    return get_peft_model(model, config)


def add_plain_lora(model: nn.Module, rank: int) -> None:
    """Add fresh low-rank layers to the attention of a text-to-image denoiser, in place; all else is frozen."""
    from peft import LoraConfig, get_peft_model

    get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=rf"denoiser\.{_ADAPTED}"))


def in_diffusers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The low-rank layers of a trained model's denoiser, as `load_lora_weights` of diffusers names them."""
    return {
        name.replace("denoiser.", "unet.", 1).replace(".default.", "."): tensor
        for name, tensor in state.items()
        if name.startswith("denoiser.") and ".lora_" in name
    }


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a model with an adapter of scale 1 as that of the plain model, the adapter in its weights."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            down, up = (state[f"{layer}.lora_{half}.default.weight"] for half in "AB")
            plain[f"{layer}.weight"] = tensor + up.to(tensor) @ down.to(tensor)
        elif ".lora_" not in name and ".original_module." not in name:
            plain[name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")] = tensor
    return plain


def write_adapter(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the adapter of a trained model in peft's layout.

    `state` is the full state dict of a model that was trained with `select(..., "lora")`, or averages of it.
    """
    from peft import LoraConfig

    adapter = {
        f"base_model.model.{name.replace('.modules_to_save.default.', '.').replace('.default.', '.')}": tensor
        for name, tensor in state.items()
        if ".lora_" in name or ".modules_to_save." in name
    }
    low_rank = {name.partition(".lora_")[0]: len(tensor) for name, tensor in state.items() if ".lora_A." in name}
    rank = next(iter(low_rank.values()))
    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(low_rank),
        modules_to_save=[f"denoiser.{layer}" for layer in INPUTS],
    ).save_pretrained(str(folder))
    write_safetensors(folder / "adapter_model.safetensors", adapter)
