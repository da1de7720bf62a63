"""Exponential moving average (EMA) of weights, for validation and export.

Path: optimizer step -> `Average.update` -> validation and checkpoints use `swapped` or `state`.
Source: Polyak averaging as diffusion training uses it (Song et al. 2020); the decay grows with the number of updates,
so that a short run is not an average of its random beginning: min(decay, (1 + n) / (10 + n)).

Works on plain parameters and on FSDP2's sharded ones: each process averages what it holds.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def held(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of tensors, sharded or whole; shares their memory, and is for work without gradients.

    Work on it element by element spares `DTensor` a look at every way to share it: seconds for hundreds of tensors.
    """
    with torch.no_grad():
        return [each.to_local() if isinstance(each, DTensor) else each.detach() for each in tensors]


class Average:
    """Average of a module's trainable parameters, by name; their `requires_grad` must not change from now on.

    `decay` is that in the long run, in [0, 1), or ValueError; 0 makes the average the weights themselves.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: want it in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self._live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the module's present weights to the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(held(self.weights.values()), held(self._live.values()), 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the module compute with the average inside."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for live, average in zip(held(self._live.values()), held(self.weights.values()), strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    def state(self) -> dict[str, Any]:
        """Content for a checkpoint."""
        return {"updates": self.updates, "weights": self.weights}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`, in place; ValueError if it belongs to another module."""
        if odd := sorted(set(state["weights"]) ^ set(self.weights)):
            raise ValueError(f"an average of other weights: {', '.join(odd[:4])}{' ...' if len(odd) > 4 else ''}")
        self.updates = int(state["updates"])
        for name, tensor in state["weights"].items():
            self.weights[name].copy_(tensor)
