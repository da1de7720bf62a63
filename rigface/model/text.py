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

from rigface.errors import MissingAsset

UPSTREAM_PROMPT = "A close up of a person."


class TextEncoder:
    """A CLIP text model and its tokenizer, as transformers loads them."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer

    @staticmethod
    def load(folder: str | Path) -> TextEncoder:
        """Load from a folder with `text_encoder/` and `tokenizer/`, such as a Stable Diffusion folder.

        MissingAsset if one of the two is missing; pickled weights count as missing.
        """
        folder = Path(folder)
        if not has_text_encoder(folder):
            raise MissingAsset(
                f"{folder} has no text encoder: want text_encoder/config.json, text_encoder/*.safetensors and "
                "tokenizer/, as in a Stable Diffusion 1.5 folder (CLIP ViT-L/14)"
            )
        from transformers import CLIPTextModel, CLIPTokenizer

        model = CLIPTextModel.from_pretrained(folder / "text_encoder", use_safetensors=True, local_files_only=True)
        return TextEncoder(model, CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True))

    def save(self, folder: str | Path) -> None:
        """Write both, for `load`."""
        self.model.save_pretrained(Path(folder) / "text_encoder", safe_serialization=True)
        self.tokenizer.save_pretrained(Path(folder) / "tokenizer")

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, L, D), float32, on the model's device; a long prompt is truncated."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.model.config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        )
        result: Tensor = self.model(tokens.input_ids.to(self.model.device)).last_hidden_state.float()
        return result


def has_text_encoder(folder: Path) -> bool:
    """True if a folder has a text encoder in safetensors and a tokenizer."""
    text = folder / "text_encoder"
    return (text / "config.json").is_file() and any(text.glob("*.safetensors")) and (folder / "tokenizer").is_dir()
