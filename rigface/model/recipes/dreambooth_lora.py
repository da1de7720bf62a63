"""DreamBooth by low-rank layers (Ruiz et al. 2022; LoRA, Hu et al. 2021): one person under a rare word, in megabytes.

    unet/                                            the denoiser with the layers in its weights
    adapter/pytorch_lora_weights.safetensors         the layers alone, in diffusers' names

As `dreambooth`, but the denoiser is frozen, and layers on its attention are trained. A stock Stable Diffusion pipeline
(`load_lora_weights`) reads the file and draws the person under the same prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from rigface.model import finetuning
from rigface.model.lora_files import DIFFUSERS_FILE
from rigface.model.recipes.dreambooth import DreamBoothRecipe
from rigface.model.recipes.plain import PlainModel
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.weights import write_safetensors


class DreamBoothLoraRecipe(DreamBoothRecipe):
    """Stored merged, and the layers alone."""

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        model = super().added_to(denoiser, start, options)
        finetuning.add_plain_lora(model, options.rank)
        return model

    def write(
        self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        super().write(folder, checkpoint, finetuning.merged(state), dtype)

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        write_safetensors(folder / DIFFUSERS_FILE, finetuning.in_diffusers_names(state))


RECIPE = DreamBoothLoraRecipe()
