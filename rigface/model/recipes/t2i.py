"""A T2I-Adapter (Mou et al. 2023, arXiv 2302.08453) beside a frozen denoiser: render and background as hint.

    t2iadapter/     diffusers' `T2IAdapter`, with in_channels=6: render and background as pictures

It is small and does not see the noisy latents, so its features are those of the hint alone. The hint is pixels, as that
of public adapters: one of them, of three channels or a sketch's one, begins a training; see `plain.py`.
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
from rigface.model.latents import shrinkage
from rigface.model.recipes.plain import PlainAdapterRecipe, PlainInputs, PlainModel, read_network
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.weights import write_network

FOLDER = "t2iadapter"
CHANNELS = 6  # render and background
_FIRST = "adapter.conv_in.weight"


class AdaptedModel(PlainModel):
    """A plain denoiser with a T2I-Adapter."""

    def __init__(self, plain: PlainModel, adapter: T2IAdapter) -> None:
        super().__init__(plain.denoiser, plain.default_text, plain.expression_size)
        self.adapter = adapter

    @property
    def reads_pixels(self) -> bool:
        return bool(self.adapter.config["downscale_factor"] > 1)  # a hint of latents was not shrunk

    def _added(self, inputs: PlainInputs) -> dict[str, Any]:
        hint = torch.cat([inputs.render, inputs.background], dim=1) if inputs.hint is None else inputs.hint
        return {"down_intrablock_additional_residuals": self.adapter(hint)}


class T2IRecipe(PlainAdapterRecipe):
    """The adapter has the widths and the depth of the denoiser's levels."""

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        plain = PlainModel(denoiser, start.model.default_text, start.model.expression_size)
        factor, widths = shrinkage(start.vae), list(denoiser.config["block_out_channels"])
        if options.weights is not None:
            return AdaptedModel(plain, read_adapter(options.weights, factor, widths))
        depth = denoiser.config["layers_per_block"]
        adapter = T2IAdapter(in_channels=CHANNELS, channels=widths, num_res_blocks=depth, downscale_factor=factor)
        return AdaptedModel(plain, adapter)

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        return AdaptedModel(plain, read_network(T2IAdapter, folder / FOLDER))

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        write_network(folder / FOLDER, checkpoint.model.adapter, state, "adapter.")


def read_adapter(folder: Path, factor: int, widths: list[int]) -> T2IAdapter:
    """A T2I-Adapter to train on, for pictures `factor` times as large as the latents of a denoiser of these widths.

    BadCheckpoint if it is of another size.
    """
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    network: T2IAdapter = read_network(T2IAdapter, folder, {"in_channels": (_FIRST, CHANNELS, factor**2)})
    given = network.config["in_channels"], network.config["downscale_factor"], list(network.config["channels"])
    if given != (CHANNELS, factor, widths):
        raise BadCheckpoint(
            f"{folder}: its hint has {given[0]} channels and is shrunk {given[1]} times to features of {given[2]}; "
            f"here it is pictures of {CHANNELS} channels, shrunk {factor} times, and the widths are {widths}. "
            "Light adapters, and models of before, whose hint is latents, begin no training"
        )
    return network


RECIPE = T2IRecipe()
