"""InstantID (Wang et al. 2024, arXiv 2401.07519): an IP-Adapter on identity vectors, and a ControlNet on five points.

    ip-adapter.safetensors     as `ip_adapter`
    controlnet/                diffusers' `ControlNetModel`, with conditioning_channels=4: latents of the drawn points

The ControlNet reads identity tokens where others read text. Its hint is the render condition in the style `points`:
five points of the wanted face, drawn as InstantID draws them. The released InstantID is of Stable Diffusion XL and of
pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from rigface.errors import PlanError
from rigface.model.recipes.controlnet import FOLDER, copy_of, read_controlnet
from rigface.model.recipes.ip_adapter import IdentityModel, IPAdapterRecipe
from rigface.model.recipes.plain import PlainInputs, PlainModel
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.weights import write_network

STYLE = "points"  # of the render condition


class InstantModel(IdentityModel):
    """A denoiser with an IP-Adapter, and a ControlNet that reads the same identity tokens."""

    def __init__(self, identity: IdentityModel, controlnet: ControlNetModel) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(identity.__dict__)
        self.controlnet = controlnet

    @property
    def networks(self) -> list[nn.Module]:
        return [self.denoiser, self.controlnet]

    def _added(self, inputs: PlainInputs) -> dict[str, Any]:
        added = super()._added(inputs)
        tokens = self.denoiser.encoder_hid_proj(added["added_cond_kwargs"]["image_embeds"])[0][:, 0]
        down, middle = self.controlnet(inputs.latents, inputs.timestep, tokens, inputs.render, return_dict=False)
        return {**added, "down_block_additional_residuals": down, "mid_block_additional_residual": middle}


class InstantIDRecipe(IPAdapterRecipe):
    """Both parts are trained together."""

    def build(self, start: Checkpoint, options: RecipeOptions) -> Checkpoint:
        if start.config.render_style != STYLE:
            raise PlanError(
                f"this recipe reads five points, and the render condition is {start.config.render_style!r}; start from "
                "sd15 with examples of `rigface pair --style points --identity dlib`"
            )
        return super().build(start, options)

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        channels = start.model.latent_channels
        controlnet = copy_of(denoiser, channels)  # before the adapter changes the denoiser
        if options.weights is not None:
            controlnet = read_controlnet(options.weights / FOLDER, channels)
        identity = super().added_to(denoiser, start, options)
        assert isinstance(identity, IdentityModel)
        return InstantModel(identity, controlnet.requires_grad_(True))

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        identity = super().restored(folder, plain, encoder)
        assert isinstance(identity, IdentityModel)
        return InstantModel(identity, read_controlnet(folder / FOLDER, plain.latent_channels))

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        super().write_adapter(folder, checkpoint, state)
        write_network(folder / FOLDER, checkpoint.model.controlnet, state, "controlnet.")


RECIPE = InstantIDRecipe()
