"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): one person as rows of the text encoder's token table.

    learned_embeds.safetensors     {token: (N, D)}: diffusers' `load_textual_inversion` reads it

Everything else is frozen. The prompt is the only condition; an edit without one draws the person ("A close up of a
<token>."), and prompts of the user's own may contain the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call

from rigface.errors import BadCheckpoint
from rigface.model.recipes.dreambooth import CLASS, text_encoder
from rigface.model.recipes.plain import PlainAdapterRecipe, PlainModel
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.weights import read_safetensors, write_safetensors

FILE = "learned_embeds.safetensors"
_TABLE = "embeddings.token_embedding.weight"


class LearnedToken(PlainModel):
    """A plain denoiser whose default text is a prompt with a token that is being learned.

    Args:
        rows: (N, D) of the token table, trained.
        tokens: (1, L) of the prompt, see `TextEncoder.around`.
    """

    tokens: Tensor
    name: str

    def __init__(self, plain: PlainModel, encoder: TextEncoder, rows: Tensor, tokens: Tensor, name: str) -> None:
        super().__init__(plain.denoiser, plain.default_text, plain.expression_size)
        self.text_model = encoder.model
        self.rows = nn.Parameter(rows.clone())
        self.register_buffer("tokens", tokens, persistent=False)
        self.name = name

    def _text(self, text: Tensor | None, like: Tensor) -> Tensor:
        return super()._text(self.prompt().expand(like.shape[0], -1, -1) if text is None else text, like)

    def prompt(self) -> Tensor:
        """(1, L, D) embedding of the prompt."""
        table = torch.cat([self.text_model.get_parameter(_TABLE), self.rows])
        result: Tensor = functional_call(self.text_model, {_TABLE: table}, (self.tokens,)).last_hidden_state
        return result


class TextualInversionRecipe(PlainAdapterRecipe):
    """The rows begin as those of the word for the class."""

    personal = True

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        encoder, name = text_encoder(start), f"<{options.token}>"
        plain = PlainModel(denoiser, start.model.default_text, start.model.expression_size)
        if options.weights is not None:
            _, rows = read_token(options.weights)
        else:
            table: Any = encoder.model.get_parameter(_TABLE)
            rows = table[encoder.words(CLASS)].mean(0, keepdim=True).repeat(options.token_rows, 1)
            rows = rows + 0.01 * rows.std() * torch.randn_like(rows)  # rows that are equal would stay so
        return LearnedToken(plain, encoder, rows, encoder.around(options.prompt, len(rows)), name)

    def write(
        self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        super().write(folder, checkpoint, state, dtype)
        if isinstance(checkpoint.model, LearnedToken):
            write_safetensors(folder / "prompt.safetensors", {"tokens": checkpoint.model.tokens})

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        if encoder is None:
            raise BadCheckpoint(f"{folder}: a learned token needs text_encoder/ and tokenizer/, they are not there")
        name, rows = read_token(folder / FILE)
        tokens = read_safetensors(folder / "prompt.safetensors")["tokens"]
        model = LearnedToken(plain, encoder, rows, tokens, name)
        with torch.no_grad():
            model.default_text = model.prompt()[0]
        encoder.add_token(name, rows)
        return model

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        assert isinstance(checkpoint.model, LearnedToken)
        write_safetensors(folder / FILE, {checkpoint.model.name: state["rows"]})


def read_token(place: Path) -> tuple[str, Tensor]:
    """Name and rows (N, D) of a learned token: the file of diffusers, or of others with `emb_params`.

    MissingAsset, BadCheckpoint: it is not there, or no such file; pickles are not read.
    """
    place = place / FILE if place.is_dir() else place
    tensors = read_safetensors(place)
    name = next(iter(tensors))
    if len(tensors) != 1 or tensors[name].ndim not in (1, 2):
        raise BadCheckpoint(f"{place}: want one learned token and its rows, as diffusers writes them")
    rows = tensors[name].float().reshape(-1, tensors[name].shape[-1])
    return (place.stem if name == "emb_params" else name), rows


RECIPE = TextualInversionRecipe()
