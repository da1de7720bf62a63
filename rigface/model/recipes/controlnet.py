"""A ControlNet (Zhang et al. 2023, arXiv 2302.05543) beside a frozen denoiser: render and background as hint.

    controlnet/     diffusers' `ControlNetModel`, with conditioning_channels=8: render and background latents

The hint is latents, as in diffusers' ControlNets of Stable Diffusion 3 and Flux; see `plain.py`. It is the stock class
with a single level of `conditioning_embedding_out_channels`, which does not shrink its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from rigface.errors import BadCheckpoint
from rigface.model.recipes.plain import PlainAdapterRecipe, PlainInputs, PlainModel, read_network
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.weights import write_network

FOLDER = "controlnet"


class ControlledModel(PlainModel):
    """A plain denoiser with a ControlNet."""

    def __init__(self, plain: PlainModel, controlnet: ControlNetModel) -> None:
        super().__init__(plain.denoiser, plain.default_text, plain.expression_size)
        self.controlnet = controlnet

    @property
    def networks(self) -> list[nn.Module]:
        return [self.denoiser, self.controlnet]

    def _added(self, inputs: PlainInputs) -> dict[str, Any]:
        hint = torch.cat([inputs.render, inputs.background], dim=1)
        down, middle = self.controlnet(inputs.latents, inputs.timestep, inputs.text, hint, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


class ControlNetRecipe(PlainAdapterRecipe):
    """The ControlNet begins as a copy of the denoiser's encoder, with its outputs at zero."""

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        plain = PlainModel(denoiser, start.model.default_text, start.model.expression_size)
        if options.weights is not None:
            return ControlledModel(plain, read_controlnet(options.weights, 2 * plain.latent_channels))
        return ControlledModel(plain, copy_of(denoiser, 2 * plain.latent_channels))

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        return ControlledModel(plain, read_controlnet(folder / FOLDER, 2 * plain.latent_channels))

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        write_network(folder / FOLDER, checkpoint.model.controlnet, state, "controlnet.")


def copy_of(denoiser: UNet2DConditionModel, channels: int) -> ControlNetModel:
    """A ControlNet for a hint of so many channels of latents, trained; its answer is zero."""
    network: ControlNetModel = ControlNetModel.from_unet(
        denoiser,
        conditioning_channels=channels,
        conditioning_embedding_out_channels=(denoiser.config["block_out_channels"][0],),
    )
    return network.requires_grad_(True)


def read_controlnet(folder: Path, channels: int) -> ControlNetModel:
    """A ControlNet whose hint is latents of so many channels; BadCheckpoint for one of pixels, as most public ones."""
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    network: ControlNetModel = read_network(ControlNetModel, folder)
    hint, levels = network.config["conditioning_channels"], network.config["conditioning_embedding_out_channels"]
    if hint != channels or len(levels) != 1:
        raise BadCheckpoint(
            f"{folder}: this ControlNet's hint is a picture of {hint} channels in pixels, such as edges or poses; here "
            f"the hint is latents of {channels} channels, so it cannot be used"
        )
    return network


RECIPE = ControlNetRecipe()
