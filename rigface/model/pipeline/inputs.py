"""Inputs of the pipeline: pictures of any form as tensors, and checks that they fit each other and the model.

Path: arguments of `RigFacePipeline.begin` -> tensors (B, 3, H, W) -> the VAE.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rigface.image import to_tensor
from rigface.model.sampling import seeded

Pictures = Any
"""(H, W, 3) or (B, H, W, 3) uint8 array; (3, H, W) or (B, 3, H, W) float tensor in [0, 1]; a PIL image; a list of
them.
"""


def as_tensor(pictures: Pictures) -> Tensor:
    """Convert `Pictures` to (B, 3, H, W) float32 in [0, 1]."""
    if isinstance(pictures, list | tuple):
        return torch.cat([as_tensor(p) for p in pictures])
    if isinstance(pictures, Tensor) and pictures.is_floating_point():
        tensor = pictures.float()
    else:
        if hasattr(pictures, "convert"):  # PIL
            pictures = pictures.convert("RGB")
        tensor = to_tensor(np.asarray(pictures))
    return tensor[None] if tensor.ndim == 3 else tensor


def as_rows(tensor: Tensor, batch: int) -> Tensor:
    """The same for `batch` rows, as a view of a single one."""
    return tensor if tensor.shape[0] == batch else tensor.expand(batch, *tensor.shape[1:])


def check_pictures(pictures: list[Tensor], batch: int, multiple: int) -> None:
    """ValueError if background, render and source (B, 3, H, W), in this order, do not fit each other or the model.

    Sides have to be multiples of `multiple` px.
    """
    height, width = pictures[0].shape[-2:]
    for name, picture in zip(("background", "render", "source"), pictures):
        if picture.shape[-2:] != (height, width):
            raise ValueError(
                f"{name}: want {width} x {height} px like background, got {picture.shape[-1]} x {picture.shape[-2]}"
            )
        if picture.shape[0] not in (1, batch):
            raise ValueError(f"{name}: want 1 or {batch} rows, got {picture.shape[0]}")
    if height % multiple or width % multiple:
        raise ValueError(f"pictures: want sides that are multiples of {multiple} px, got {width} x {height}")


def check_code(code: Tensor, size: int) -> None:
    """ValueError if an expression code is not (B, size)."""
    if code.ndim != 2 or code.shape[1] != size:
        raise ValueError(f"expression_code: want (B, {size}), got {tuple(code.shape)}")


def checked_text(embeds: Tensor | None, default: Tensor) -> Tensor:
    """Text embeddings (B, L, D), by default (L, D) of the model; ValueError for another shape."""
    text = default if embeds is None else embeds.to(default)
    text = text[None] if text.ndim == 2 else text
    if text.shape[1:] != default.shape:
        raise ValueError(f"prompt_embeds: want (B, {default.shape[0]}, {default.shape[1]}), got {tuple(text.shape)}")
    return text


def drawn(
    seed: int | Sequence[int],
    generator: torch.Generator | Sequence[torch.Generator] | None,
    batch: int,
    shape: tuple[int, ...],
) -> tuple[Tensor, list[torch.Generator]]:
    """Noise (B, *shape) of seeds, on the CPU, or of generators, and the generators to go on with, one per row.

    ValueError for another number of seeds than rows.
    """
    if generator is None:
        seeds = [seed] * batch if isinstance(seed, int | np.integer) else list(seed)
        if len(seeds) != batch:
            raise ValueError(f"seed: want one number, or {batch} for {batch} rows, got {len(seeds)}")
        return seeded(seeds, shape)
    generators = [generator] * batch if isinstance(generator, torch.Generator) else list(generator)
    return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators]), generators
