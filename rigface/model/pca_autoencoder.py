"""PCA autoencoder: the principal components of 8 x 8 px squares as an `AutoencoderKL`, without training.

Path: pictures -> `components` -> `patch_autoencoder` -> vae/ of a small checkpoint, in the format of Stable
Diffusion's.

A bridge from the preview to the picture needs latents in which small differences are small, and a sharp reconstruction.
Principal components of squares give both: 48 of 192 numbers reconstruct a face at 38 dB (a convolutional autoencoder of
2.8 M numbers reached 18 dB after ten minutes of training). They are a fixed linear map, found and decoded in a moment.

The picture is folded before the network (`latents.patch`), so the network has `3 p^2` channels and no downsampling
level. An `AutoencoderKL` ends in GroupNorm and SiLU, which are not linear. Two things make them linear here: in every
group two channels hold +-`ANCHOR`, far larger than all others, so that the norm divides by a constant; and every
component exists with both signs, since silu(x) - silu(-x) = x.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

ANCHOR = 1024.0
"""Latents are a few units, so a group's spread changes by (a few / 1024)^2: less than half precision shows."""
GROUPS = 4


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of squares of pictures in [-1, 1]."""

    mean: np.ndarray  # (P,) the mean square, P = 3 p^2, in the order of `torch.nn.functional.pixel_unshuffle`
    basis: np.ndarray  # (L, P) orthonormal rows, largest spread first
    spread: np.ndarray  # (L,) standard deviation along each
    lost: float  # mean square along the other P - L directions


def components(pictures: Iterable[np.ndarray], patch: int, count: int) -> Components:
    """The first `count` principal components of all squares of pictures (H, W, 3) uint8 and of their mirror images.

    `patch` px, the side of the squares, divides the sides of the pictures. ValueError if there is no picture, or more
    components are wanted than a square has numbers.
    """
    width = 3 * patch * patch
    if not 0 < count <= width:
        raise ValueError(f"count: want 1 to {width} components of {patch} x {patch} px, got {count}")
    total, outer, number = np.zeros(width), np.zeros((width, width)), 0
    for picture in pictures:
        both = np.stack([picture, picture[:, ::-1]]).astype(np.float32) / 127.5 - 1
        folded = F.pixel_unshuffle(torch.from_numpy(both).permute(0, 3, 1, 2), patch)
        squares = folded.permute(0, 2, 3, 1).reshape(-1, width).numpy()
        total += squares.sum(0, dtype=np.float64)
        outer += squares.T @ squares
        number += len(squares)
    if not number:
        raise ValueError("pictures: want at least one, there are none")
    mean = total / number
    values, vectors = np.linalg.eigh(outer / number - np.outer(mean, mean))
    order = np.argsort(values)[::-1]
    values, vectors = np.maximum(values[order], 1e-9), vectors[:, order]
    return Components(
        mean.astype(np.float32),
        np.ascontiguousarray(vectors[:, :count].T, dtype=np.float32),
        np.sqrt(values[:count]).astype(np.float32),
        float(values[count:].sum() / width),
    )


def patch_autoencoder(parts: Components, size: int) -> AutoencoderKL:
    """The components as a network. Latents are (B, L, S/p, S/p): components divided by the root of their spread.

    With the whole spread, brightness dominates the latents; with none, noise is as large as faces. Pictures may have
    any side S that is a multiple of the squares'. ValueError if the components are no multiple of `GROUPS`.
    """
    count, width = parts.basis.shape
    if count % GROUPS:
        raise ValueError(f"components: want a multiple of {GROUPS}, got {count}")
    vae = AutoencoderKL(
        in_channels=width,
        out_channels=width,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(2 * count + 2 * GROUPS,),
        layers_per_block=0,
        latent_channels=count,
        norm_num_groups=GROUPS,
        sample_size=size,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):  # x + 0
            for layer in (block.conv1, block.conv2):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    basis, mean = torch.from_numpy(parts.basis), torch.from_numpy(parts.mean)
    root = torch.from_numpy(parts.spread).sqrt()[:, None]
    with torch.no_grad():
        _to_pairs(vae.encoder.conv_in, basis / root, -(basis / root) @ mean)
        _from_pairs(vae.encoder, torch.cat([torch.eye(count), torch.zeros(count, count)]))
        vae.encoder.conv_out.bias[count:] = -30.0  # the log variance: its mode is all that is used
        _to_pairs(vae.decoder.conv_in, torch.eye(count), torch.zeros(count))
        _from_pairs(vae.decoder, (basis * root).T.contiguous(), mean)
    result: AutoencoderKL = vae.eval().requires_grad_(False)
    return result


def _places(count: int) -> tuple[Tensor, Tensor]:
    """Channels of the positive twins (count,) and anchors (GROUPS,); the negative ones come right after."""
    each = count // GROUPS
    length = 2 * each + 2
    place = torch.arange(count)
    return place // each * length + 2 * (place % each), torch.arange(GROUPS) * length + 2 * each


def _to_pairs(conv: nn.Conv2d, rows: Tensor, bias: Tensor) -> None:
    """Set a 3 x 3 convolution to `rows @ x + bias` (L,) with both signs, and the anchors."""
    twins, anchors = _places(len(rows))
    conv.weight.zero_()
    conv.bias.zero_()  # type: ignore[union-attr]
    for shift, sign in enumerate((1.0, -1.0)):
        conv.weight[twins + shift, :, 1, 1] = sign * rows
        conv.bias[twins + shift] = sign * bias  # type: ignore[index]
        conv.bias[anchors + shift] = sign * ANCHOR  # type: ignore[index]


def _from_pairs(half: Any, rows: Tensor, bias: Tensor | None = None) -> None:
    """Set norm, SiLU and last convolution of an encoder or decoder to `rows @ x + bias` of the pairs' x."""
    twins, anchors = _places(rows.shape[1])
    length = len(half.conv_norm_out.weight) // GROUPS
    half.conv_norm_out.weight.fill_(ANCHOR * math.sqrt(2 / length))
    half.conv_norm_out.bias.zero_()
    half.conv_out.weight.zero_()
    half.conv_out.bias.zero_() if bias is None else half.conv_out.bias.copy_(bias)
    for shift, sign in enumerate((1.0, -1.0)):
        half.conv_norm_out.weight[anchors + shift] = 0.0
        half.conv_out.weight[:, twins + shift, 1, 1] = sign * rows
