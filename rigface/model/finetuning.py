"""Which weights are trained: all of them, the attention layers, or a low-rank change beside those.

Path: `RigFaceModel` -> `select` -> optimizer; `merged` -> weights to save, under diffusers' stock names.
Source: LoRA (Hu et al. 2021): W + (alpha / r) B A with B = 0 at the start, so that step 0 is the model that was loaded.
The method demands `all`; the other two are for cards on which that does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rigface.model.attention import blocks
from rigface.model.unets import RigFaceModel, dead_tail

TUNE = ("all", "attention", "lora")
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")


class LowRank(nn.Module):
    """A frozen linear layer and a trained change of low rank.

    Args:
        base: the layer; its parameters are frozen here.
        rank: of the change; its size is scaled by alpha / rank with alpha = rank, that is, by one.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.down.T) @ self.up.T


def select(model: RigFaceModel, tune: str = "all", rank: int = 16) -> int:
    """Freeze what is not to be trained; add what is to be added.

    Returns:
        How many numbers are trained.

    Raises:
        ValueError: an unknown way of tuning.
    """
    if tune not in TUNE:
        raise ValueError(f"tune: want one of {', '.join(TUNE)}, got {tune!r}")
    model.requires_grad_(tune == "all")
    for network in (model.identity, model.denoiser):
        for _, block in blocks(network):
            for attention in (block.attn1, block.attn2):
                if attention is None or tune == "all":
                    continue
                if tune == "attention":
                    attention.requires_grad_(True)
                    continue
                for name in _ADAPTED:
                    base = attention.get_submodule(name)
                    if isinstance(base, nn.Linear):
                        attention.set_submodule(name, LowRank(base, rank))
    if tune == "lora":
        model.denoiser.class_embedding.requires_grad_(True)  # small, and the only way numbers come in
        for name, parameter in model.identity.named_parameters():
            if name.endswith((".up", ".down")) and _is_dead(model, name):
                parameter.requires_grad_(False)
    else:
        for parameter in dead_tail(model.identity):
            parameter.requires_grad_(False)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _is_dead(model: RigFaceModel, name: str) -> bool:
    last = [n for n, _ in blocks(model.identity) if n.startswith("up_blocks.")][-1]
    return name.startswith(f"{last}.")


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under stock names: low-rank changes are added to what they change.

    Args:
        weights: of a model that went through `select`, possibly with averages in place of what was trained.
    """
    out = {}
    for name, tensor in weights.items():
        if name.endswith((".up", ".down")) and f"{name.rpartition('.')[0]}.base.weight" in weights:
            continue
        if name.endswith((".base.weight", ".base.bias")):
            layer, _, kind = name.rpartition(".base.")
            if kind == "weight":
                tensor = tensor + weights[f"{layer}.up"].float() @ weights[f"{layer}.down"].float()
            out[f"{layer}.{kind}"] = tensor
        else:
            out[name] = tensor
    return out
