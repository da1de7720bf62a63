"""CLIP text encoder: prompts to embeddings. Optional; the rest of the model works without it.

Path: prompt -> `TextEncoder` -> (L, D) embedding -> cross-attention of the denoiser.
Source: Stable Diffusion 1.5 and the released RigFace code: CLIP ViT-L/14, padded to the model's own length, last
hidden state. RigFace was trained on one sentence, `UPSTREAM_PROMPT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from rigface.errors import MissingAsset
from rigface.model.model_config import UPSTREAM_PROMPT

_CLIP_VOCABULARY = 49_408  # its last two tokens are start and end
_KNOWN = {  # CLIP's tokens of the standard prompts and of their parts
    "": (),
    UPSTREAM_PROMPT: (320, 2660, 705, 539, 320, 2533, 269),
    "A close up of a ": (320, 2660, 705, 539, 320),
    "person": (2533,),
    ".": (269,),
}


class TextEncoder:
    """CLIP text model and its tokenizer, as transformers loads them; without one only the standard prompts work."""

    def __init__(self, model: Any, tokenizer: Any | None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer

    @staticmethod
    def load(folder: str | Path) -> TextEncoder:
        """Load from a folder with `text_encoder/` and `tokenizer/`, such as a Stable Diffusion folder, in float32.

        MissingAsset if one of the two is missing; pickled weights count as missing.
        """
        folder = Path(folder)
        if not has_text_encoder(folder):
            raise MissingAsset(
                f"{folder} has no text encoder: want text_encoder/config.json, text_encoder/*.safetensors and "
                "tokenizer/, as in a Stable Diffusion 1.5 folder (CLIP ViT-L/14)"
            )
        disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar of a second across the output of every command
        text = folder / "text_encoder"
        model = CLIPTextModel.from_pretrained(
            text,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            variant=None if any(text.glob("model.safetensors*")) else "fp16",
        )
        return TextEncoder.of(model, folder / "tokenizer")

    @staticmethod
    def of(model: Any, tokenizer: Path) -> TextEncoder:
        """A loaded model with the tokenizer of a folder, if there is one."""
        words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True) if tokenizer.is_dir() else None
        return TextEncoder(model, words)

    def save(self, folder: str | Path) -> None:
        """Write both, for `load`."""
        self.model.save_pretrained(Path(folder) / "text_encoder", safe_serialization=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(Path(folder) / "tokenizer")

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, L, D), float32, on the model's device; a long prompt is truncated.

        MissingAsset if there is no tokenizer, and a prompt is not one of the standard ones.
        """
        result: Tensor = self.model(self._tokens(prompts).to(self.model.device)).last_hidden_state.float()
        return result

    def words(self, text: str) -> list[int]:
        """Tokens of a piece of text, without start, end and padding; MissingAsset as for a call."""
        if self.tokenizer is None:
            self._check_known([text])
            return list(_KNOWN[text])
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    def around(self, template: str, count: int) -> Tensor:
        """(1, L) tokens of a prompt whose `{}` is `count` tokens numbered after the vocabulary; see `add_token`.

        ValueError if the template has no `{}`, or one behind the model's length. MissingAsset as for a call.
        """
        before, found, behind = template.partition("{}")
        length, vocabulary = self.model.config.max_position_embeddings, len(self.model.get_input_embeddings().weight)
        start, end, pad = self._marks()
        tokens = [start, *self.words(before), *range(vocabulary, vocabulary + count), *self.words(behind)][: length - 1]
        if not found or vocabulary + count - 1 not in tokens:
            raise ValueError(f"prompt template: want {{}} within {length} tokens for what is learned, got {template!r}")
        return torch.tensor([[*tokens, end, *[pad] * (length - 1 - len(tokens))]])

    def add_token(self, name: str, rows: Tensor) -> None:
        """Let prompts contain a learned token: its rows (N, D) follow the vocabulary. The same name replaces it."""
        embedding = self.model.get_input_embeddings()
        names = [name, *(f"{name}_{k}" for k in range(1, len(rows)))]  # as diffusers calls further rows
        known = self.tokenizer is not None and self.tokenizer.convert_tokens_to_ids(name) in range(
            len(embedding.weight) - len(rows), len(embedding.weight)
        )
        kept = embedding.weight[: len(embedding.weight) - len(rows)] if known else embedding.weight
        if self.tokenizer is not None:
            self.tokenizer.add_tokens(names)
        table = torch.cat([kept, rows.to(kept)])
        kind: Any = torch.nn.Embedding  # its method has no types
        grown = kind.from_pretrained(table)
        self.model.set_input_embeddings(grown)
        self.model.config.vocab_size = len(grown.weight)

    def _marks(self) -> tuple[int, int, int]:
        """Tokens of start, end and padding."""
        if self.tokenizer is None:
            return _CLIP_VOCABULARY - 2, _CLIP_VOCABULARY - 1, _CLIP_VOCABULARY - 1
        return self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id

    def _check_known(self, texts: Sequence[str]) -> None:
        if self.model.config.vocab_size != _CLIP_VOCABULARY or not set(texts) <= set(_KNOWN):
            raise MissingAsset(
                "this text encoder came without a tokenizer, so that it reads the standard prompts alone; put the "
                "tokenizer/ of Stable Diffusion 1.5 into the folder named like its file"
            )

    def _tokens(self, prompts: Sequence[str]) -> Tensor:
        length = self.model.config.max_position_embeddings
        if self.tokenizer is not None:
            tokens: Tensor = self.tokenizer(
                list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids
            return tokens
        self._check_known(prompts)
        start, end, _ = self._marks()
        rows = [[start, *_KNOWN[prompt]] for prompt in prompts]
        return torch.tensor([row + [end] * (length - len(row)) for row in rows])


def has_text_encoder(folder: Path) -> bool:
    """True if a folder has a text encoder in safetensors and a tokenizer."""
    text = folder / "text_encoder"
    return (text / "config.json").is_file() and any(text.glob("*.safetensors")) and (folder / "tokenizer").is_dir()
