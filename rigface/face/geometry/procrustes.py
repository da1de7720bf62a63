"""Procrustes alignment of point sets."""

import torch
from torch import Tensor


def procrustes(points: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (N, 3, 3), proper, and scales (N,) that bring points (N, V, 3) closest to others, shifts aside."""
    p, q = observed - observed.mean(1, keepdim=True), points - points.mean(1, keepdim=True)
    u, s, vh = torch.linalg.svd(p.mT @ q)
    sign = torch.ones_like(s)
    sign[:, 2] = torch.sign(torch.linalg.det(u @ vh))
    return (u * sign[:, None]) @ vh, (s * sign).sum(1) / q.square().sum((1, 2))
