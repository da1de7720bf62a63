"""Optimizer of a training run, with learning rates and weight decay by groups of parameters.

Path: the model's trained parameters -> `groups_of` -> `build` -> loop.py, which gives each group its share of a step's
rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pipelines.train.config import TrainConfig
from rigface.errors import PlanError
from rigface.model.ema import held

REST = "all others"  # pattern of what no pattern names


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that are trained alike."""

    pattern: str
    scale: float  # of the learning rate
    decay: float  # weight decay
    parameters: dict[str, nn.Parameter]  # by name

    def __str__(self) -> str:
        """Its line in a dry run, without the rate."""
        numbers = sum(parameter.numel() for parameter in self.parameters.values())
        return f"{self.pattern}: {len(self.parameters):,} tensors, {numbers:,} numbers, weight decay {self.decay:g}"


def groups_of(config: TrainConfig, named: Mapping[str, nn.Parameter]) -> list[Group]:
    """The groups of trained parameters: a name belongs to the first pattern of `lr_groups` that it matches.

    With `decay="matrices"` norms and biases, which have one dimension, form groups without weight decay. PlanError if a
    pattern matches no name.
    """
    scales = {REST: 1.0, **config.lr_scales}
    found: dict[tuple[str, bool], dict[str, nn.Parameter]] = {}
    for name, parameter in named.items():
        pattern = next((p for p in config.lr_scales if fnmatchcase(name, p)), REST)
        has_decay = config.decay == "all" or parameter.ndim > 1
        found.setdefault((pattern, has_decay), {})[name] = parameter
    if missing := [pattern for pattern in config.lr_scales if pattern not in {pattern for pattern, _ in found}]:
        some = ", ".join(sorted({".".join(name.split(".")[:2]) for name in named})[:12])
        raise PlanError(f"--lr-groups: {missing[0]!r} names no parameter that is trained; they begin with {some}")
    order = sorted(found, key=lambda key: (list(scales).index(key[0]), not key[1]))
    return [Group(p, scales[p], config.weight_decay * has_decay, found[p, has_decay]) for p, has_decay in order]


class _AdamW(torch.optim.AdamW):
    """AdamW that computes on what this process holds of FSDP's tensors; its state is sharded as they are."""

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        """Fill the lists of what the step reads and changes: weights, gradients, moments, their maxima, and steps."""
        has_complex: bool = super()._init_group(group, *lists)
        for each in lists:
            each[:] = held(each)
        return has_complex


def build(config: TrainConfig, groups: list[Group], device: torch.device) -> torch.optim.Optimizer:
    """AdamW of the config; PlanError if it needs what is not here."""
    given: list[dict[str, Any]] = [
        {"params": list(group.parameters.values()), "weight_decay": group.decay} for group in groups
    ]
    shared: dict[str, Any] = {"lr": config.learning_rate, "betas": (0.9, 0.99)}
    if config.optimizer == "adamw":
        return _AdamW(given, fused=True, **shared)
    if device.type != "cuda" or config.sharding != "ddp":
        raise PlanError("optimizer adam8bit computes on CUDA, on whole weights: use --gpu and --sharding ddp, or adamw")
    try:
        bitsandbytes: Any = import_module("bitsandbytes")  # no dependency of ours: its wheels are for CUDA
    except ImportError as error:
        raise PlanError(
            "optimizer adam8bit needs the package bitsandbytes, which is not installed: `pip install bitsandbytes`, or "
            "use adamw"
        ) from error
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(given, **shared)
    return optimizer


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to `max_norm` in all, and return the norm that they had, a scalar; every worker calls it.

    As `torch.nn.utils.clip_grad_norm_`, which takes seconds of a first step with FSDP: see `held`.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    shards = held(gradients)
    norm = torch.nn.utils.get_total_norm(shards)
    if gradients and isinstance(gradients[0], DTensor):  # all alike: FSDP shards over the last dimension of its mesh
        squared = norm.square()
        torch.distributed.all_reduce(squared, group=gradients[0].device_mesh.get_group(-1))
        norm = squared.sqrt()
    torch._foreach_mul_(shards, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step (from 1): linear warm-up, then constant, or a cosine to a hundredth."""
    warm = min(1.0, step / max(config.warmup_steps, 1))
    if config.schedule == "constant":
        return config.learning_rate * warm
    progress = min(1.0, max(0.0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
    return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
