"""Guidance by text at sampling, for models that read none: a step along CLIP's direction from one text to another.

Path: folder of a CLIP model -> `ClipGuidance.load` -> `towards(prompt)` -> `SamplingState.guide`, after each step.
Source: the directional loss of StyleGAN-NADA (Gal et al. 2021) and DiffusionCLIP (Kim et al., CVPR 2022); DiffusionCLIP
trains the denoiser with it, here the clean estimate is moved instead, and nothing is trained.

    loss = 1 - cos(E(picture) - E(picture without the prompt), E(prompt) - E("a photo of a person"))

The gradient goes through CLIP and the decoder, not through the denoiser. It is scaled to a mean size, so that the scale
of the guidance means the same for every model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rigface.edits import RegionPrompt
from rigface.errors import MissingAsset
from rigface.model.latents import latent_mask

NEUTRAL = "a photo of a person"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pictures
STEP = 0.05  # mean size of a move of the latents at scale 1; theirs is about 1

Decode = Callable[[Tensor], Tensor]
"""Scaled latents (B, 4, h, w) -> pictures (B, 3, S, S) around [0, 1], with gradients."""
Guide = Callable[[Tensor], Tensor]
"""Clean latents (B, 4, h, w), as estimated after a step -> what is added to the latents."""


class ClipGuidance:
    """A CLIP model with its tokenizer.

    Args:
        model: transformers' CLIPModel, frozen here.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer

    @staticmethod
    def load(folder: str | Path, device: torch.device | str = "cpu") -> ClipGuidance:
        """Load a folder in transformers' layout: config.json, *.safetensors and the tokenizer's files.

        MissingAsset if it is none, or has the text half alone, as Stable Diffusion's.
        """
        from transformers import CLIPModel, CLIPTokenizer

        folder = Path(folder)
        config = folder / "config.json"
        kind = json.loads(config.read_text()).get("model_type") if config.is_file() else None
        if kind != "clip" or not any(folder.glob("*.safetensors")):
            raise MissingAsset(
                f"{folder} holds no CLIP model: want config.json, *.safetensors and the tokenizer, as in "
                "openai/clip-vit-large-patch14; the text_encoder/ of Stable Diffusion is not enough"
            )
        try:
            model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True, dtype=torch.float32)
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as e:
            raise MissingAsset(f"{folder} holds no whole CLIP model: {e}") from e
        return ClipGuidance(model.to(torch.device(device)), tokenizer)  # type: ignore[arg-type]

    def guide(
        self, prompt: str, regions: Sequence[RegionPrompt], before: np.ndarray, decode: Decode, scale: float = 1.0
    ) -> Guide | None:
        """A guide to a prompt, and in regions to theirs; None without any. Arguments as for `towards`."""
        everywhere = [(self.towards(prompt, before, decode, scale), None)] if prompt else []
        parts = [*everywhere, *((self.towards(one.text, before, decode, scale), one.mask) for one in regions)]

        def guide(clean: Tensor) -> Tensor:
            total = torch.zeros_like(clean)
            for towards, mask in parts:
                share = torch.ones_like(clean[:, :1]) if mask is None else latent_mask(mask, clean)
                total = total + share * (towards(clean) - total)
            return total

        return guide if parts else None

    @torch.no_grad()
    def towards(self, prompt: str, before: np.ndarray, decode: Decode, scale: float = 1.0) -> Guide:
        """A guide to a prompt, from the picture (S, S, 3) uint8 that the edit would show without it."""
        wanted, neutral = self._texts([prompt, NEUTRAL])
        direction, device = F.normalize(wanted - neutral, dim=0), self._model.device
        start = self._pictures(torch.from_numpy(before).permute(2, 0, 1)[None].float().to(device) / 255)

        def guide(clean: Tensor) -> Tensor:
            with torch.enable_grad():
                latents = clean.detach().float().requires_grad_()
                moved = self._pictures(decode(latents)) - start
                loss = 1 - F.cosine_similarity(moved, direction[None], dim=1, eps=1e-6)
                (gradient,) = torch.autograd.grad(loss.sum(), latents)
            size = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
            return -scale * STEP * gradient / size

        return guide

    def _texts(self, texts: list[str]) -> Tensor:
        """(N, D) unit vectors."""
        length = self._model.config.text_config.max_position_embeddings
        words = self._tokenizer(texts, padding=True, max_length=length, truncation=True, return_tensors="pt")
        out = self._model.get_text_features(**words.to(self._model.device))
        return F.normalize(_features(out), dim=1)

    def _pictures(self, pictures: Tensor) -> Tensor:
        """(B, D) unit vectors of pictures (B, 3, S, S) in [0, 1]."""
        side = self._model.config.vision_config.image_size
        small = F.interpolate(pictures.clamp(0, 1), (side, side), mode="bicubic", antialias=True)
        mean, std = (small.new_tensor(v)[:, None, None] for v in (MEAN, STD))
        return F.normalize(_features(self._model.get_image_features(pixel_values=(small - mean) / std)), dim=1)


def _features(out: Any) -> Tensor:
    """The projected vectors; some versions of transformers wrap them."""
    result: Tensor = out if isinstance(out, Tensor) else out.pooler_output
    return result
