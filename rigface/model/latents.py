"""Encode pictures to latents and decode them; only here the VAE's scaling factor is applied.

Path: `Conditions` -> encode -> `LatentConditions` -> denoiser; final latents -> decode -> picture.
Conventions, as the released weights were trained (arXiv 2502.02465, released code):

* conditions (reference, background, render) are the *mode* of the encoder's distribution, **unscaled**;
* denoised latents, and so the training target, are scaled: `scaling_factor * mode`; the decoder divides by it;
* pictures enter the VAE in [-1, 1] and leave it there;
* a VAE with 3 p^2 input channels sees p x p squares of them folded into channels (`pca_autoencoder.py`); Stable
  Diffusion's has p = 1.

Deviates: the target is the mode and not a sample, so that latents can be computed once and stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from rigface.image import to_tensor
from rigface.types import Array, Conditions, Example


@dataclass(frozen=True, eq=False)
class LatentConditions:
    """`Conditions` as latents."""

    background: Tensor  # (B, 4, h, w) unscaled
    render: Tensor  # (B, 4, h, w) unscaled
    expression_code: Tensor  # (B, E)
    reference: Tensor | None = None  # (B, 4, h, w) unscaled, or (B, V) identity vectors; None if there are tokens
    text: Tensor | None = None  # (B, L, D) prompt embedding, or None for the model's default
    hint: Tensor | None = None  # (B, 6, H, W) in [0, 1]: render and background as pictures, for models that read pixels

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.background.shape[0]

    def map(self, fn: Callable[[Tensor], Tensor]) -> LatentConditions:
        """Apply `fn` to every field that is not None."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return LatentConditions(**{name: fn(value) for name, value in values.items() if value is not None})

    @staticmethod
    def cat(parts: Sequence[LatentConditions]) -> LatentConditions:
        """Join rows; all must have the same fields."""
        columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(LatentConditions)}
        return LatentConditions(**{name: torch.cat(c) for name, c in columns.items() if c[0] is not None})


@dataclass(frozen=True, eq=False)
class LatentExample:
    """`Example` as latents; the target is (B, 4, h, w), *scaled*."""

    conditions: LatentConditions
    target: Tensor
    weights: Tensor | None = None  # (B, 1, h, w) of the squared error, 1 on average over a row; None: all alike

    def map(self, fn: Callable[[Tensor], Tensor]) -> LatentExample:
        """Apply `fn` to every tensor: `example.map(lambda t: t.to(device))`."""
        return LatentExample(
            self.conditions.map(fn), fn(self.target), None if self.weights is None else fn(self.weights)
        )


def patch(vae: AutoencoderKL) -> int:
    """Side of the squares, px, that are folded into channels for a VAE; 1: none."""
    return math.isqrt(vae.config["in_channels"] // 3)


def shrinkage(vae: AutoencoderKL) -> int:
    """Factor by which latents are smaller than their picture, along a side."""
    return int(patch(vae) * 2 ** (len(vae.config["block_out_channels"]) - 1))


def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Condition latents (B, 4, h, w), unscaled, of pictures (B, 3, S, S) float in [0, 1]."""
    result: Tensor = vae.encode(F.pixel_unshuffle(2 * pictures - 1, patch(vae))).latent_dist.mode()
    return result


def encode_target(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Target latents (B, 4, h, w), scaled, of pictures (B, 3, S, S) float in [0, 1]."""
    return encode(vae, pictures) * float(vae.config["scaling_factor"])


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures (B, 3, S, S), float around [0, 1] and not clipped, of scaled latents (B, 4, h, w)."""
    return F.pixel_shuffle(vae.decode(latents / vae.config["scaling_factor"]).sample, patch(vae)) / 2 + 0.5


def latent_mask(mask: Array, like: Tensor) -> Tensor:
    """(1, 1, h, w) float in [0, 1], the share of each pixel of latents `like` in a mask (S, S) uint8 of the picture."""
    share = torch.from_numpy(mask).to(like.device, like.dtype)[None, None] / 255
    return F.interpolate(share, like.shape[-2:], mode="area")


def lost_detail(vae: AutoencoderKL, pictures: Tensor, latents: Tensor | None = None) -> Tensor:
    """Difference between pictures (B, 3, S, S) in [0, 1] and their round trip through the autoencoder.

    It is added to the decoded output of a model that begins at a picture (a bridge from the preview): parts that the
    model leaves alone then stay as sharp as they were, however small the autoencoder. Unscaled `latents` of the
    pictures may be given if they are known.
    """
    latents = encode(vae, pictures) if latents is None else latents
    return pictures - decode(vae, latents * vae.config["scaling_factor"])


def encode_conditions(
    vae: AutoencoderKL, conditions: Conditions, reference: bool = True, hints: bool = False
) -> LatentConditions:
    """Encode the pictures (B, S, S, 3) uint8 of a batch of conditions in one run, with or without the reference.

    With `hints` the hint is theirs, for models that read pixels.
    """
    names = ("background", "render", "reference")[: 3 if reference else 2]
    latents = _encode_uint8(vae, [getattr(conditions, name) for name in names])
    code = torch.as_tensor(conditions.expression_code, dtype=torch.float32, device=vae.device)
    hint = _hint(vae, conditions) if hints else None
    encoded = LatentConditions(**dict(zip(names, latents)), expression_code=code, hint=hint)
    return replace(encoded, reference=_person(vae, conditions, encoded.reference)) if reference else encoded


def encode_example(vae: AutoencoderKL, example: Example, hints: bool = False) -> LatentExample:
    """Encode a batch of examples, as they are stored and trained on; `hints` as for `encode_conditions`."""
    c = example.conditions
    background, render, reference, target = _encode_uint8(vae, [c.background, c.render, c.reference, example.target])
    code = torch.as_tensor(c.expression_code, dtype=torch.float32, device=vae.device)
    hint = _hint(vae, c) if hints else None
    conditions = LatentConditions(background, render, code, reference=_person(vae, c, reference), hint=hint)
    return LatentExample(conditions, target * vae.config["scaling_factor"])


def _hint(vae: AutoencoderKL, conditions: Conditions) -> Tensor:
    pictures = [to_tensor(picture) for picture in (conditions.render, conditions.background)]
    return torch.cat(pictures, dim=-3).to(vae.device)


@torch.no_grad()
def decoded_hint(vae: AutoencoderKL, background: Tensor, render: Tensor) -> Tensor:
    """The hint (B, 6, H, W) of stored latents (B, 4, h, w), unscaled: their pictures as the autoencoder knows them."""
    pictures = [decode(vae, latents.to(vae.dtype) * vae.config["scaling_factor"]) for latents in (render, background)]
    return torch.cat(pictures, dim=1).clamp(0, 1).float()


def _person(vae: AutoencoderKL, conditions: Conditions, reference: Tensor | None) -> Tensor | None:
    """The reference of a model: the identity vectors (B, V) if the conditions have some, else latents."""
    if conditions.identity is None:
        return reference
    return torch.as_tensor(conditions.identity, dtype=torch.float32, device=vae.device)


def _encode_uint8(vae: AutoencoderKL, pictures: list[Array]) -> tuple[Tensor, ...]:
    stacked = torch.cat([to_tensor(p) for p in pictures]).to(vae.device, vae.dtype)
    return encode(vae, stacked).float().chunk(len(pictures))
