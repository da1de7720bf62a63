"""A ControlNet (Zhang et al. 2023, arXiv 2302.05543) beside a frozen denoiser: render and background as hint.

    controlnet/     diffusers' `ControlNetModel`, with conditioning_channels=6: render and background as pictures

The hint is pixels, and diffusers' own encoder of hints shrinks it to the size of the latents; see `plain.py`. A public
ControlNet of three channels begins a training: it reads the render as it read its edges or poses, and the background
not at all, at first.
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
from rigface.model.latents import shrinkage
from rigface.model.recipes.plain import PlainAdapterRecipe, PlainInputs, PlainModel, read_network
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.weights import write_network

FOLDER = "controlnet"
CHANNELS = 6  # render and background
LEVELS = (
    16,
    32,
    96,
    256,
    256,
    256,
)  # widths of the encoder of hints, each but the first half as large as the one before
_FIRST = "controlnet_cond_embedding.conv_in.weight"


class ControlledModel(PlainModel):
    """A plain denoiser with a ControlNet."""

    def __init__(self, plain: PlainModel, controlnet: ControlNetModel) -> None:
        super().__init__(plain.denoiser, plain.default_text, plain.expression_size)
        self.controlnet = controlnet

    @property
    def networks(self) -> list[nn.Module]:
        return [self.denoiser, self.controlnet]

    @property
    def reads_pixels(self) -> bool:
        return reads_pixels(self.controlnet)

    def _added(self, inputs: PlainInputs) -> dict[str, Any]:
        hint = torch.cat([inputs.render, inputs.background], dim=1) if inputs.hint is None else inputs.hint
        down, middle = self.controlnet(inputs.latents, inputs.timestep, inputs.text, hint, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


class ControlNetRecipe(PlainAdapterRecipe):
    """The ControlNet begins as a copy of the denoiser's encoder, with its outputs at zero."""

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        plain = PlainModel(denoiser, start.model.default_text, start.model.expression_size)
        return ControlledModel(plain, begun(denoiser, start, options.weights, CHANNELS))

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        return ControlledModel(plain, read_network(ControlNetModel, folder / FOLDER))

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        write_network(folder / FOLDER, checkpoint.model.controlnet, state, "controlnet.")


def reads_pixels(controlnet: ControlNetModel) -> bool:
    """True if the hint is pictures: those of latents do not shrink it."""
    return len(controlnet.config["conditioning_embedding_out_channels"]) > 1


def begun(denoiser: UNet2DConditionModel, start: Checkpoint, weights: Path | None, channels: int) -> ControlNetModel:
    """A ControlNet to train for pictures of so many channels: a copy of the denoiser's encoder, or of a folder.

    BadCheckpoint if the folder's is of another denoiser, or shrinks its hint to another size than the latents'.
    """
    levels = LEVELS[: shrinkage(start.vae).bit_length()]
    if weights is None:
        network: ControlNetModel = ControlNetModel.from_unet(
            denoiser, conditioning_channels=channels, conditioning_embedding_out_channels=levels
        )
        return network.requires_grad_(True)
    folder = weights / FOLDER if (weights / FOLDER).is_dir() else weights
    network = read_network(ControlNetModel, folder, {"conditioning_channels": (_FIRST, channels, 1)})
    for name in ("cross_attention_dim", "block_out_channels", "layers_per_block"):
        if (theirs := network.config[name]) != denoiser.config[name]:
            raise BadCheckpoint(f"{folder}: it is of another denoiser: {name} is {theirs}, not {denoiser.config[name]}")
    hint, shrinks = network.config["conditioning_channels"], len(network.config["conditioning_embedding_out_channels"])
    if hint != channels or shrinks != len(levels):
        raise BadCheckpoint(
            f"{folder}: its hint has {hint} channels and is shrunk {2 ** (shrinks - 1)} times; here it is pictures "
            f"of {channels} channels, {2 ** (len(levels) - 1)} times as large as the latents. Models of before, whose "
            "hint is latents, edit as they are, and begin no training"
        )
    return network.requires_grad_(True)


RECIPE = ControlNetRecipe()
