"""Procrustes alignment of point sets."""

import torch
from torch import Tensor


def procrustes(points: Tensor, observed: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rotations (N, 3, 3), proper, and scales (N,) that bring points (N, V, 3) closest to others, shifts aside.

    `weights` (V,) of the points, if they do not count evenly.
    """
    p, q = centred(observed, weights), centred(points, weights)
    u, s, vh = torch.linalg.svd(p.mT @ q)
    sign = torch.ones_like(s)
    sign[:, 2] = torch.sign(torch.linalg.det(u @ vh))
    return (u * sign[:, None]) @ vh, (s * sign).sum(1) / q.square().sum((1, 2))


def centred(points: Tensor, weights: Tensor | None = None) -> Tensor:
    """Points (N, V, 3) about their mean; times the roots of their weights (V,), for sums of squares that count them."""
    if weights is None:
        return points - points.mean(1, keepdim=True)
    share = (weights / weights.sum())[:, None]
    return (points - (points * share).sum(1, keepdim=True)) * weights.sqrt()[:, None]
