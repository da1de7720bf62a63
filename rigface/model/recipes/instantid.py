"""InstantID (Wang et al. 2024, arXiv 2401.07519): an IP-Adapter on identity vectors, and a ControlNet on five points.

    ip-adapter.safetensors     as `ip_adapter`
    controlnet/                diffusers' `ControlNetModel`, with conditioning_channels=3: a picture of the points

The ControlNet reads identity tokens where others read text. Its hint is the render condition in the style `points`:
five points of the wanted face, drawn as InstantID draws them, in pixels. The released InstantID is of Stable Diffusion
XL.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from rigface.errors import PlanError
from rigface.model.recipes.controlnet import FOLDER, begun, reads_pixels
from rigface.model.recipes.ip_adapter import IdentityModel, IPAdapterRecipe
from rigface.model.recipes.plain import PlainInputs, PlainModel, read_network
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.weights import write_network

STYLE = "points"  # of the render condition
CHANNELS = 3


class InstantModel(IdentityModel):
    """A denoiser with an IP-Adapter, and a ControlNet that reads the same identity tokens."""

    def __init__(self, identity: IdentityModel, controlnet: ControlNetModel) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(identity.__dict__)
        self.controlnet = controlnet

    @property
    def networks(self) -> list[nn.Module]:
        return [self.denoiser, self.controlnet]

    @property
    def reads_pixels(self) -> bool:
        return reads_pixels(self.controlnet)

    def _added(self, inputs: PlainInputs) -> dict[str, Any]:
        added = super()._added(inputs)
        tokens = self.denoiser.encoder_hid_proj(added["added_cond_kwargs"]["image_embeds"])[0][:, 0]
        hint = inputs.render if inputs.hint is None else inputs.hint[:, :CHANNELS]
        down, middle = self.controlnet(inputs.latents, inputs.timestep, tokens, hint, return_dict=False)
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
        # before the adapter changes the denoiser
        controlnet = begun(denoiser, start, None if options.weights is None else options.weights / FOLDER, CHANNELS)
        identity = super().added_to(denoiser, start, options)
        assert isinstance(identity, IdentityModel)
        return InstantModel(identity, controlnet)

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        identity = super().restored(folder, plain, encoder)
        assert isinstance(identity, IdentityModel)
        return InstantModel(identity, read_network(ControlNetModel, folder / FOLDER))

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        super().write_adapter(folder, checkpoint, state)
        write_network(folder / FOLDER, checkpoint.model.controlnet, state, "controlnet.")


RECIPE = InstantIDRecipe()
