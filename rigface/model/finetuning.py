"""Choose the weights that are trained: all, the new inputs alone, the attention layers, or a LoRA adapter.

Path: `RigFaceModel` -> `select` -> optimizer; with LoRA, trained weights -> `save_adapter` -> a folder in peft's layout
(`adapters.py` reads it) and a model with the adapter merged, under diffusers' stock names.
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

from torch import Tensor

from rigface.model.attention import blocks
from rigface.model.unets import RigFaceModel, dead_tail

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


def save_adapter(model: RigFaceModel, weights: Mapping[str, Tensor], rank: int, folder: Path) -> None:
    """Write the adapter of a trained model in peft's layout, and merge it into the model that training began with.

    `weights` is the full state dict of the trained model (`select(..., "lora", rank)`), or averages of it.
    """
    adapted = add_lora(model, rank)
    model.load_state_dict(weights)
    adapted.save_pretrained(str(folder))
    adapted.merge_and_unload()
