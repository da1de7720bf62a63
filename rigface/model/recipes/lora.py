"""Low-rank layers (LoRA, Hu et al. 2021) on the attention layers, and the layers that take the conditions, whole.

    adapter/adapter_config.json, adapter_model.safetensors     peft's layout, with the inputs
    adapter/pytorch_lora_weights.safetensors                   diffusers' names: the low-rank layers of the denoiser

The second file alone is for a stock Stable Diffusion pipeline (`load_lora_weights`), which has no such inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rigface.model import finetuning
from rigface.model.lora_files import DIFFUSERS_FILE
from rigface.model.recipes.protocol import Checkpoint
from rigface.model.recipes.rigface import RigFaceRecipe
from rigface.model.weights import write_safetensors


class LoraRecipe(RigFaceRecipe):
    """Stored merged, so that the model needs no adapter, and the adapter alone."""

    def __init__(self) -> None:
        super().__init__("lora")

    def write(
        self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        super().write(folder, checkpoint, finetuning.merged(state), dtype)

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        finetuning.write_adapter(state, folder)
        write_safetensors(folder / DIFFUSERS_FILE, finetuning.in_diffusers_names(state))


RECIPE = LoraRecipe()
