"""Pixel loss: compare latents by their decoded pictures, for small autoencoders.

Path: the model's answer -> implied x0 -> decoder -> difference of pictures, beside the loss on latents.

With a small autoencoder an answer may be nearer to the target in latents and worse as a picture (measured: 8 % less
error in latents, 4 dB less PSNR). The target is decoded, too, so that training needs latents alone.
"""

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from rigface.model.diffusion import Draw, Predict, clean_estimate, predict
from rigface.model.latents import LatentExample, decode
from rigface.model.model_config import Process

SMALL = 0.1
"""Threshold of the Huber error, of a picture's range. A preview is right almost everywhere, and absolute error would
weigh the many pixels that are nearly right as much as the few that are wrong."""


def picture_loss(output: Tensor, target: Tensor, levels: int = 3, weights: Tensor | None = None) -> Tensor:
    """Huber error of (B, 3, w, w) pictures in [0, 1], and of their Laplacian pyramids: edges count as much as areas.

    `weights` (B, 1, w, w) are of the pixels.
    """
    loss, pair = _huber(output, target, weights), [output, target]
    for _ in range(levels):
        smaller = [F.avg_pool2d(p, 2) for p in pair]
        edges = [p - F.interpolate(s, scale_factor=2.0, mode="bilinear") for p, s in zip(pair, smaller)]
        loss, pair = loss + _huber(edges[0], edges[1], weights), smaller
        weights = None if weights is None else F.avg_pool2d(weights, 2)
    return loss


def _huber(output: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return F.smooth_l1_loss(output, target, beta=SMALL)
    return (F.smooth_l1_loss(output, target, beta=SMALL, reduction="none") * weights).mean()


def decoded_loss(
    model: Predict, vae: AutoencoderKL, example: LatentExample, process: Process, drawn: Draw
) -> tuple[Tensor, Tensor]:
    """Loss of the pictures and, from the same answer, loss of the latents; both scalars. The VAE is frozen."""
    noisy, _, answer = predict(model, example, process, drawn)
    estimate = clean_estimate(process, noisy, answer, drawn.timestep)
    with torch.no_grad():
        target = decode(vae, example.target).float()
    squared, weights = (estimate - example.target).square(), example.weights
    if weights is not None:
        squared = squared * weights
        weights = F.interpolate(weights, size=target.shape[-2:])
    return picture_loss(decode(vae, estimate).float(), target, weights=weights), squared.mean()
