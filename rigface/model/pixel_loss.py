"""Judge latents by the pictures they decode to: what a small autoencoder's latents need.

Path: the model's answer -> x0 as it implies -> decoder -> difference of pictures, beside the loss on latents.

Latents of a small autoencoder are no fair ruler: an answer may lie nearer to the truth in latents and decode to
something worse (measured: 8 % less error in latents, 4 dB less PSNR). Truth is the decoded target, so that training
needs latents alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from rigface.model.diffusion import Draw, Predict, Process, clean_estimate, mix, start
from rigface.model.latents import LatentExample, decode

SMALL = 0.1
"""Of the range of a picture.

Errors below it count with their square, larger ones as they are (Huber): a preview is right almost everywhere, and
absolute error pulls as hard at the many pixels that are nearly right as at the few that are wrong."""


def picture_loss(made: Tensor, wanted: Tensor, levels: int = 3) -> Tensor:
    """Huber error of (B, 3, w, w) pictures in [0, 1], and of their Laplacian pyramids: edges count as much as areas."""
    loss = F.smooth_l1_loss(made, wanted, beta=SMALL)
    for _ in range(levels):
        smaller = [F.avg_pool2d(p, 2) for p in (made, wanted)]
        one, other = (p - F.interpolate(s, scale_factor=2.0, mode="bilinear") for p, s in zip((made, wanted), smaller))
        loss = loss + F.smooth_l1_loss(one, other, beta=SMALL)
        made, wanted = smaller
    return loss


def decoded_loss(
    model: Predict, vae: AutoencoderKL, example: LatentExample, process: Process, drawn: Draw
) -> tuple[Tensor, Tensor]:
    """Loss of the pictures and, from the same answer, of the latents; both scalars.

    Args:
        example: latents, float32, on the model's device. vae: frozen.
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
    with torch.no_grad():
        truth = decode(vae, clean)
    made = decode(vae, estimate)
    return picture_loss(made.float(), truth.float()), (estimate - clean).square().mean()
