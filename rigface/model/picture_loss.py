"""Judge latents by the pictures they decode to: what a small autoencoder's latents need, and what an autoencoder learns from.

Path: the model's answer -> x0 as it implies -> decoder -> difference of pictures, beside the loss on latents.

Latents of a small autoencoder are no fair ruler: an answer may lie nearer to the truth in latents and decode to something
worse (measured: 8 % less error in latents, 4 dB less PSNR). Truth is the decoded target, so that training needs latents
alone. Decoding is local enough for a window, which costs a quarter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from rigface.model.diffusion import Draw, Predict, Process, clean_estimate, mix, start
from rigface.model.latents import LatentExample


def picture_loss(made: Tensor, wanted: Tensor, levels: int = 3) -> Tensor:
    """Absolute error of (B, 3, w, w) pictures, and of their Laplacian pyramids: edges count as much as areas."""
    loss = (made - wanted).abs().mean()
    for _ in range(levels):
        smaller = [F.avg_pool2d(p, 2) for p in (made, wanted)]
        edges = [p - F.interpolate(s, scale_factor=2.0, mode="bilinear") for p, s in zip((made, wanted), smaller)]
        loss = loss + (edges[0] - edges[1]).abs().mean()
        made, wanted = smaller
    return loss


def decoded_loss(
    model: Predict, vae: AutoencoderKL, example: LatentExample, process: Process, drawn: Draw, share: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Loss of the pictures and, from the same answer, of the latents; both scalars.

    Args:
        example: latents, float32, on the model's device. vae: frozen.
        share: side of the window that is decoded, as a share of the picture's; its place comes from the draw.
    """
    c, clean = example.conditions, example.target
    noisy = mix(process, clean, start(process, c, drawn.noise), drawn.timestep)
    answer = model(
        noisy,
        drawn.timestep,
        c.background,
        c.render,
        c.expression_code,
        text=c.text,
        reference=c.reference,
        drop=drawn.drop,
    ).float()
    estimate = clean_estimate(process, noisy, answer, drawn.timestep)
    height, width = (max(1, round(share * side)) for side in clean.shape[-2:])
    place = drawn.noise.flatten()[:2].abs() % 1
    top, left = (int(p * (side - size + 1)) for p, side, size in zip(place.tolist(), clean.shape[-2:], (height, width)))
    window = (..., slice(top, top + height), slice(left, left + width))
    scale = vae.config["scaling_factor"]
    with torch.no_grad():
        truth = vae.decode(clean[window] / scale).sample
    made = vae.decode(estimate[window] / scale).sample
    return picture_loss(made.float(), truth.float()), (estimate - clean).square().mean()
