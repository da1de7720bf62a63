"""A T2I-Adapter (Mou et al. 2023, arXiv 2302.08453) beside a frozen denoiser: render and background as hint.

    t2iadapter/     diffusers' `T2IAdapter`, with in_channels=8 and downscale_factor=1: render and background latents

It is small and does not see the noisy latents, so its features are those of the hint alone. The hint is latents; see
`plain.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from rigface.errors import BadCheckpoint
from rigface.model.recipes.plain import PlainAdapterRecipe, PlainInputs, PlainModel, read_network
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.weights import write_network

FOLDER = "t2iadapter"


class AdaptedModel(PlainModel):
    """A plain denoiser with a T2I-Adapter."""

    def __init__(self, plain: PlainModel, adapter: T2IAdapter) -> None:
        super().__init__(plain.denoiser, plain.default_text, plain.expression_size)
        self.adapter = adapter

    def _added(self, inputs: PlainInputs) -> dict[str, Any]:
        return {
            "down_intrablock_additional_residuals": self.adapter(torch.cat([inputs.render, inputs.background], dim=1))
        }


class T2IRecipe(PlainAdapterRecipe):
    """The adapter has the widths and the depth of the denoiser's levels."""

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        plain = PlainModel(denoiser, start.model.default_text, start.model.expression_size)
        channels = 2 * plain.latent_channels
        if options.weights is not None:
            return AdaptedModel(plain, read_adapter(options.weights, channels))
        widths, depth = list(denoiser.config["block_out_channels"]), denoiser.config["layers_per_block"]
        adapter = T2IAdapter(in_channels=channels, channels=widths, num_res_blocks=depth, downscale_factor=1)
        return AdaptedModel(plain, adapter)

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        return AdaptedModel(plain, read_adapter(folder / FOLDER, 2 * plain.latent_channels))

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        write_network(folder / FOLDER, checkpoint.model.adapter, state, "adapter.")


def read_adapter(folder: Path, channels: int) -> T2IAdapter:
    """A T2I-Adapter for latents of so many channels; BadCheckpoint for one of pixels, as all public ones are."""
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    network: T2IAdapter = read_network(T2IAdapter, folder)
    hint, factor = network.config["in_channels"], network.config["downscale_factor"]
    if hint != channels or factor != 1:
        raise BadCheckpoint(
            f"{folder}: this T2I-Adapter's hint is a picture of {hint} channels in pixels, such as a sketch; "
            f"here the hint is the latents of render and background, {channels} channels, so it cannot be used"
        )
    return network


RECIPE = T2IRecipe()
