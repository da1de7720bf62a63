"""Helpers for the reference figures of the official networks: their weights, files and inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def drawn(names: dict[str, list[int]], seed: int, gain: float) -> dict[str, torch.Tensor]:
    """Weights by the rule of tests/fixtures/official/README.md."""
    rs = np.random.RandomState(seed)
    weights = {}
    for name in sorted(names):
        shape = names[name]
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        x = rs.standard_normal(shape)
        if name.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif name.endswith("running_mean"):
            x = 0.1 * x
        elif len(shape) == 1:
            x = (gain if name.endswith("weight") else 0) + 0.05 * x
        else:
            x = 1.4 * x / np.sqrt(np.prod(shape[1:]))
        weights[name] = torch.from_numpy(x.astype(np.float32))
    return weights


def as_input(pictures: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def loaded(load: Callable[..., Any], content: Any, path: Path) -> Any:
    """What a loader makes of a file with this content; the file is large and is removed."""
    torch.save(content, path)
    try:
        return load(path)
    finally:
        path.unlink()
