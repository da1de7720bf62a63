"""DreamBooth (Ruiz et al. 2022, arXiv 2208.12242): all of the denoiser learns one person under a rare word.

    unet/     the denoiser, as Stable Diffusion has it

The person's examples have the prompt "A close up of a sks person.", all others "A close up of a person."; half of what
is seen is the person. So the prior is preserved by photographs of other people, where the paper has pictures that the
model itself drew of the class. Neither render nor reference is read: the prompt is the only condition.
"""

from __future__ import annotations

from pathlib import Path

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from rigface.errors import PlanError
from rigface.model.recipes.plain import UNET, PlainModel, PlainRecipe, read_network
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder

CLASS = "person"


class DreamBoothRecipe(PlainRecipe):
    """The default text of the model is the person's prompt, so that an edit without a prompt draws them."""

    personal = prior = True

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        encoder = text_encoder(start)
        if options.weights is not None:
            weights = options.weights / UNET if (options.weights / UNET).is_dir() else options.weights
            denoiser = read_network(UNet2DConditionModel, weights)
        text = encoder([options.prompt.format(f"{options.token} {CLASS}")])[0]
        model = PlainModel(denoiser.requires_grad_(True), text, start.model.expression_size)
        model.no_text = start.model.default_text.clone()
        return model

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        if encoder is not None:
            plain.no_text = encoder([""])[0]
        return plain


def text_encoder(start: Checkpoint) -> TextEncoder:
    """The text encoder of a start; PlanError if it has none."""
    if start.text_encoder is None:
        raise PlanError(
            "this recipe learns a person as a word, and the start has no text encoder; start from sd15, with its "
            "text_encoder/ and tokenizer/"
        )
    return start.text_encoder


def class_prompt(options: RecipeOptions) -> str:
    """The prompt of everyone else."""
    return options.prompt.format(CLASS)


RECIPE = DreamBoothRecipe()
