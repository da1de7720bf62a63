"""A text-to-image denoiser, and what a recipe adds to it.

Path: the start's denoiser without the inputs of RigFace (`plain_denoiser`), frozen -> `PlainModel` -> training of what
is added.

    unet/             the denoiser, as Stable Diffusion has it
    and beside it     what the recipe adds, in the format of its own users

ControlNets and T2I-Adapters read a *hint* of pixels, render and background, as the public ones read edges or poses: a
public file begins a training in the place of a new one (`for_more_channels`). Models of before, whose hint is latents,
still load.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from rigface.errors import BadCheckpoint
from rigface.model.attention import ReferenceTokens
from rigface.model.checkpoint_folder import read_json
from rigface.model.model_config import ModelConfig
from rigface.model.recipes.protocol import Checkpoint, ConditionedModel, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.unets import RigFaceModel
from rigface.model.weights import fill, read_weights, write_network
from rigface.types import BFM_EXPRESSION

UNET = "unet"
_PERSON = "person"  # the only block of its reference tokens


class PlainInputs(NamedTuple):
    """Inputs of one call of a plain model, after dropout; shapes as in `ConditionedModel.forward`."""

    latents: Tensor  # (B, 4, h, w)
    timestep: Tensor  # (B,)
    text: Tensor  # (B, L, D)
    background: Tensor  # (B, 4, h, w)
    render: Tensor  # (B, 4, h, w)
    person: Tensor | None  # (B, 1, V) identity vectors, V = 0 for models that read none; None: nobody
    hint: Tensor | None  # (B, 6, H, W) in [0, 1]; None for models that read no pixels


class PlainModel(ConditionedModel):
    """A text-to-image denoiser with conditions on the side. By itself it has text alone.

    `no_text` (L, D) stands where text is dropped; it is the default text unless a recipe learns a prompt as that.

    Args:
        denoiser: UNet with the channels of the latents in and out.
        default_text: (L, D).
        expression_size: of the codes, which it does not read.
    """

    no_text: Tensor

    def __init__(self, denoiser: UNet2DConditionModel, default_text: Tensor, expression_size: int) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("default_text", default_text.clone())
        self.register_buffer("no_text", default_text.clone(), persistent=False)
        self._expression_size = expression_size

    @property
    def expression_size(self) -> int:
        return self._expression_size

    @property
    def networks(self) -> list[nn.Module]:
        return [self.denoiser]

    def encode_reference(self, reference: Tensor, text: Tensor | None = None) -> ReferenceTokens:
        """The person as `_person` keeps it, nothing for latents."""
        return ReferenceTokens({_PERSON: (self._person(reference),)})

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        background: Tensor,
        render: Tensor,
        expression_code: Tensor,
        text: Tensor | None = None,
        reference: Tensor | None = None,
        reference_tokens: ReferenceTokens | None = None,
        drop: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Tensor:
        """As `ConditionedModel.forward`; what a recipe does not read changes nothing."""
        text = self._text(text, latents)
        person = None if reference is None else self._person(reference)
        if reference_tokens is not None:
            person = reference_tokens.blocks[_PERSON][0].expand(len(latents), -1, -1)
        if drop is not None:
            unknown, attributes, silent = (column[:, None, None] for column in drop.unbind(1))
            render = torch.where(attributes[..., None], 0.0, render)
            if hint is not None:
                hint = torch.cat([torch.where(attributes[..., None], 0.0, hint[:, :3]), hint[:, 3:]], dim=1)
            person = None if person is None else torch.where(unknown, 0.0, person)
            text = torch.where(silent, self.no_text.to(text), text)
        if self.reads_pixels and hint is None:
            raise ValueError("hint: this model reads render and background as pictures, (B, 6, H, W) in [0, 1]")
        added = self._added(PlainInputs(latents, timestep, text, background, render, person, hint))
        result: Tensor = self.denoiser(latents, timestep, encoder_hidden_states=text, return_dict=False, **added)[0]
        return result

    def _person(self, reference: Tensor) -> Tensor:
        """(B, 1, V) of a reference; V is 0 for models that read no person."""
        return reference.new_zeros(len(reference), 1, 0)

    def _added(self, inputs: PlainInputs) -> dict[str, Any]:
        """Further arguments of the denoiser."""
        return {}


class PlainRecipe(ABC):
    """Trains a plain denoiser, or something beside it."""

    personal = prior = False

    def build(self, start: Checkpoint, options: RecipeOptions) -> Checkpoint:
        """The denoiser of any start without the inputs that RigFace added, frozen, and what is trained beside it."""
        denoiser = plain_denoiser(start.model).requires_grad_(False)
        model = self.added_to(denoiser, start, options)
        return replace(start, model=model.eval(), config=replace(start.config, identity=""))

    def write(
        self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        write_network(folder / UNET, checkpoint.model.denoiser, state, "denoiser.", dtype)

    def read(
        self, folder: Path, config: ModelConfig, default_text: Tensor, encoder: TextEncoder | None
    ) -> ConditionedModel:
        by_head = config.expression_field == "expression" and config.head is not None
        expression = config.head.expression if by_head and config.head is not None else BFM_EXPRESSION
        denoiser = read_network(UNet2DConditionModel, folder / UNET)
        return self.restored(folder, PlainModel(denoiser, default_text, expression), encoder)

    @abstractmethod
    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        """The model to train, of a frozen denoiser; everything else comes from the start."""

    @abstractmethod
    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        """The model with what `write` wrote beside the denoiser."""


class PlainAdapterRecipe(PlainRecipe):
    """Adds something to a frozen plain denoiser and trains that alone."""

    def write(
        self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        super().write(folder, checkpoint, state, dtype)
        self.write_adapter(folder, checkpoint, state)

    @abstractmethod
    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        """Write what is added, in its own public format."""


def plain_denoiser(model: ConditionedModel) -> UNet2DConditionModel:
    """The denoiser of a model without the inputs that RigFace added to it.

    Of Stable Diffusion it is what `from_sd15` widened, to the bit. The layer of expression codes goes, and its bias
    moves into the embedding of time, so that a code of zeros gives what it gave.
    """
    if not isinstance(model, RigFaceModel):
        return model.denoiser
    config, weights = dict(model.denoiser.config), dict(model.denoiser.state_dict())
    config |= {
        "in_channels": model.latent_channels,
        "class_embed_type": None,
        "projection_class_embeddings_input_dim": None,
    }
    with torch.device("meta"):
        plain: UNet2DConditionModel = UNet2DConditionModel(**{n: v for n, v in config.items() if not n.startswith("_")})
    weights["conv_in.weight"] = weights["conv_in.weight"][:, : model.latent_channels].clone()
    bias = weights.pop("class_embedding.bias")
    del weights["class_embedding.weight"]
    weights["time_embedding.linear_2.bias"] = weights["time_embedding.linear_2.bias"] + bias
    fill(plain, weights, "the start's denoiser")
    return plain


def read_network(kind: Any, folder: Path, channels: dict[str, tuple[str, int, int]] | None = None) -> Any:
    """A diffusers network from its folder, on the CPU in float32; raises as `weights.read_weights`.

    With `channels`, a field of its config -> (first convolution, channels wanted, pixels folded into each), the network
    is widened to more channels of its hint, see `for_more_channels`.
    """
    config = {name: value for name, value in read_json(folder / "config.json").items() if not name.startswith("_")}
    weights = read_weights(folder)
    for field, (layer, wanted, folded) in (channels or {}).items():
        if layer in weights and weights[layer].shape[1] < wanted * folded:
            weights[layer] = for_more_channels(weights[layer], wanted, folded)
            config[field] = wanted
    try:
        with torch.device("meta"):
            network = kind(**config)
    except (TypeError, ValueError) as error:
        raise BadCheckpoint(f"{folder}/config.json is no config of {kind.__name__}: {error}") from error
    fill(network, weights, str(folder))
    return network


def for_more_channels(weight: Tensor, wanted: int, folded: int = 1) -> Tensor:
    """Weights (C, n * folded, 3, 3) of a convolution on a hint of n channels for one of `wanted`, the first its own.

    What is added is ignored at first. A hint of one channel, such as a sketch, is the mean of the first three.
    """
    given = weight.shape[1] // folded
    if given == 1 and wanted >= 3:
        weight, given = weight.repeat(1, 3, 1, 1) / 3, 3
    missing = weight.new_zeros(len(weight), max(0, wanted - given) * folded, *weight.shape[2:])
    return torch.cat([weight, missing], dim=1)
