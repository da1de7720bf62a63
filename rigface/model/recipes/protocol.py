"""Protocol of recipes: a model with one forward, and how it is built, written and read.

Path: `Checkpoint` of a start -> `Recipe.build` -> training -> `Recipe.write` -> a folder -> `Recipe.read` -> pipeline.

The loss, the samplers, validation, evaluation and the service know `ConditionedModel` alone, so none of them changes
when a recipe is added: a file in this folder with a `RECIPE`, and its name in `model_config.RecipeName`.

Shape suffixes: B batch, (4, h, w) latents, L text tokens, D text channels, E expression codes, V identity vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from rigface.model.attention import ReferenceTokens
from rigface.model.model_config import PROMPT, ModelConfig, RecipeName
from rigface.model.text import TextEncoder
from rigface.profile import IdentityName


class ConditionedModel(nn.Module, ABC):
    """A denoiser with the conditions of an edit: what the loss and the samplers call."""

    denoiser: UNet2DConditionModel
    default_text: Tensor  # (L, D) text when there is no prompt

    @property
    @abstractmethod
    def expression_size(self) -> int:
        """E, the length of the expression code."""

    @property
    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """Its networks of UNet blocks: what is sharded and compiled block by block."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the denoiser's weights."""
        result: torch.dtype = self.denoiser.dtype
        return result

    @property
    def reads_pixels(self) -> bool:
        """True if it reads a `hint`."""
        return False

    @property
    def latent_channels(self) -> int:
        """Channels of a picture's latents."""
        return int(self.denoiser.config["out_channels"])

    @property
    def latent_multiple(self) -> int:
        """Latent height and width have to be multiples of this."""
        return int(2 ** (len(self.denoiser.config["block_out_channels"]) - 1))

    def enable_gradient_checkpointing(self) -> None:
        """Trade a second forward of each block for its activations."""
        for network in self.networks:
            network.enable_gradient_checkpointing()  # type: ignore[operator]  # of diffusers' ModelMixin

    @abstractmethod
    def encode_reference(self, reference: Tensor, text: Tensor | None = None) -> ReferenceTokens:
        """What the denoiser keeps of a person over all steps, of a `reference` as `forward` takes it.

        With the default text the result may be cached by the picture alone.
        """

    @abstractmethod
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
        """Prediction of the denoiser, (B, 4, h, w): noise, velocity or picture, as the checkpoint's process says.

        Args:
            latents: (B, 4, h, w) noisy latents, at the scale the scheduler asks the network with.
            timestep: (B,), in [0, 1000]; integers where they can be, as FSDP's mixed precision would round floats.
            background, render: (B, 4, h, w) unscaled condition latents.
            expression_code: (B, E).
            text: (B, L, D), or None for the default.
            reference: the person: (B, 4, h, w) unscaled latents of a picture, or (B, V) identity vectors where the
                checkpoint's config names a network (`ModelConfig.identity`). Training.
            reference_tokens: from `encode_reference`, instead. Sampling. Without both there is no person.
            drop: (B, 3) bool, conditions dropped in each row, in the order of `unets.DROPPABLE`.
            hint: (B, 6, H, W) in [0, 1], render and background as pictures, where the model `reads_pixels`.
        """

    def _text(self, text: Tensor | None, like: Tensor) -> Tensor:
        text = self.default_text.expand(like.shape[0], -1, -1) if text is None else text
        return text.to(like.dtype)  # a wrapper may have cast the inputs, but not buffers


@dataclass(eq=False)
class Checkpoint:
    """A model with its VAE, configuration and text encoder."""

    model: ConditionedModel
    vae: AutoencoderKL
    config: ModelConfig
    text_encoder: TextEncoder | None = None


@dataclass(frozen=True)
class RecipeOptions:
    """Settings of recipes in training; each reads its own."""

    rank: int = 16  # of low-rank layers
    weights: Path | None = None  # of the recipe itself, in its own format, to begin from; None: anew
    identity: IdentityName = ""  # network of the examples' identity vectors
    identity_width: int = 0  # V of these
    prompt: str = PROMPT  # of recipes that learn one person; {} stands for what is learned
    token: str = "sks"  # dreambooth: a rare word; textual_inversion: the name of the learned token
    token_rows: int = 1  # of textual_inversion


class Recipe(Protocol):
    """One way to personalise a diffusion model."""

    personal: bool  # learns one person, from their examples alone
    prior: bool  # a personal one that sees everyone else, too, as examples of its class

    def build(self, start: Checkpoint, options: RecipeOptions) -> Checkpoint:
        """The checkpoint to train, of the networks of a start, with gradients on what is trained alone.

        PlanError if the start lacks what the recipe needs.
        """

    def write(
        self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        """Write the networks of a checkpoint into its folder, for `read`.

        `state` is the model's whole state dict, or averages of it; floats are stored as `dtype`, None: as they are.
        """

    def read(
        self, folder: Path, config: ModelConfig, default_text: Tensor, encoder: TextEncoder | None
    ) -> ConditionedModel:
        """The model of a checkpoint folder, on the CPU; MissingAsset or BadCheckpoint if it is not whole."""


@runtime_checkable
class AdapterRecipe(Recipe, Protocol):
    """A recipe whose trained part is also stored alone, in the format that its own users load."""

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        """Write what is trained alone, in its own public format."""


def recipe_of(name: RecipeName) -> Recipe:
    """A recipe by name. Its file is imported at first use, as some need libraries that others do without."""
    found: Recipe = import_module(f"rigface.model.recipes.{name}").RECIPE
    return found
