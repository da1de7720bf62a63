"""Reference attention: a pre-hook records the identity network's tokens, an attention processor reads them.

Path: reference latents -> identity network -> recorded tokens -> `ReferenceTokens` -> each of the denoiser's
self-attentions.
Source: RigFace (arXiv 2502.02465), FaceFusion. The released code stores the tokens that *enter* each transformer block
of the identity network, joins them with the denoiser's tokens before the norm and drops their half of the output.
LayerNorm works token by token and queries do not see each other, so joining keys and values alone gives the same
numbers for less work, and the keys and values of the identity are constant over all steps of an edit.

Reference tokens travel as an argument (`cross_attention_kwargs={"reference_tokens": ...}`), and so does the recorder:
nothing is kept on a module, so threads may share one model, and gradient checkpointing recomputes with the same tokens.

Shape suffixes: B batch, T latent pixels, S reference pixels, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

_BLOCK_ARGUMENTS = (  # of BasicTransformerBlock.forward: gradient checkpointing passes them by position
    "hidden_states",
    "attention_mask",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "timestep",
    "cross_attention_kwargs",
    "class_labels",
)


@dataclass(frozen=True, eq=False)
class ReferenceTokens:
    """Tokens or keys and values of a person, per transformer block."""

    # block name -> (tokens (B, S, D),) as recorded, for training, where each block projects them itself;
    # or (keys (B, S, D), values (B, S, D)), already projected, for sampling. One row serves any batch.
    blocks: dict[str, tuple[Tensor, ...]]

    @property
    def batch(self) -> int:
        """The count of people."""
        return next(iter(self.blocks.values()))[0].shape[0]

    @property
    def nbytes(self) -> int:
        """Size in bytes, for caches that count."""
        return sum(t.nbytes for tensors in self.blocks.values() for t in tensors)

    def map(self, fn: Callable[[Tensor], Tensor]) -> ReferenceTokens:
        """Apply `fn` to every tensor: `reference_tokens.map(lambda t: t.cpu())`."""
        return ReferenceTokens({name: tuple(fn(t) for t in tensors) for name, tensors in self.blocks.items()})

    def expand(self, batch: int) -> ReferenceTokens:
        """The same for `batch` rows, as a view of a single one; ValueError if there are several, but not `batch`."""
        if self.batch == batch:
            return self
        if self.batch != 1:
            raise ValueError(f"reference tokens of {self.batch} people, but {batch} rows to denoise")
        return self.map(lambda t: t.expand(batch, -1, -1))

    @staticmethod
    def cat(parts: Sequence[ReferenceTokens]) -> ReferenceTokens:
        """Join rows."""
        if len(parts) == 1:
            return parts[0]
        pairs = {name: zip(*(m.blocks[name] for m in parts)) for name in parts[0].blocks}
        return ReferenceTokens({name: tuple(torch.cat(tensors) for tensors in pair) for name, pair in pairs.items()})


class Recorder:
    """Collects the tokens of one run; pass it as `cross_attention_kwargs={"recorder": ...}`.

    Neither dict nor dataclass on purpose: FSDP passes copies of those to each block, and tokens written into a copy
    would be lost. (`ReferenceTokens` is only read, and should be seen by FSDP: a block's gradients wait for its
    tokens'.)
    """

    def __init__(self) -> None:
        self.tokens: dict[str, Tensor] = {}


def blocks(unet: nn.Module) -> Iterator[tuple[str, BasicTransformerBlock]]:
    """The transformer blocks by name; both networks have the same names."""
    return ((name, m) for name, m in unet.named_modules() if isinstance(m, BasicTransformerBlock))


class RecordTokens:
    """Forward pre-hook of a block of the identity network: passes the tokens that enter it to the recorder, if any.

    A processor would see the tokens only after `norm1`.
    """

    def __init__(self, block: str) -> None:
        self.block = block

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        named = {**dict(zip(_BLOCK_ARGUMENTS, args)), **kwargs}
        extra = dict(named.get("cross_attention_kwargs") or {})
        recorder = extra.pop("recorder", None)
        if recorder is None:
            return None
        recorder.tokens.setdefault(self.block, named["hidden_states"])  # a recomputation brings the same tensor again
        return (), {**named, "cross_attention_kwargs": extra}


class ReferenceAttention:
    """Attention that also reads a `ReferenceTokens`.

    A plain object, not a Module: it owns no weights, so the state dict keeps diffusers' stock names.

    Args:
        block: name of the block, the key into `ReferenceTokens.blocks`.
        norm: the block's `norm1`, applied to recorded tokens; None for text attention, which reads no reference tokens.
    """

    def __init__(self, block: str, norm: nn.Module | None = None) -> None:
        self.block = block
        self.norm = norm

    def project(self, attn: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, D) of recorded tokens (B, S, D), by the denoiser's own weights."""
        tokens = tokens if self.norm is None else self.norm(tokens)
        return attn.to_k(tokens), attn.to_v(tokens)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        reference_tokens: ReferenceTokens | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Attention output (B, T, D). `keep` (B,) bool: rows where it is False do not see the reference."""
        if attention_mask is not None:
            raise ValueError("ReferenceAttention: attention masks are not supported; pad the text as CLIP does instead")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if reference_tokens is not None and encoder_hidden_states is None:
            key, value = self._join(attn, reference_tokens, keep, key, value)
        query, key, value = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[1](attn.to_out[0](out))
        return result

    def _join(
        self, attn: Attention, reference_tokens: ReferenceTokens, keep: Tensor | None, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen = reference_tokens.blocks[self.block]
        reference = self.project(attn, seen[0]) if len(seen) == 1 else (seen[0], seen[1])
        joined = []
        for own, other in zip((key, value), reference):
            other = other.to(own.dtype).expand(own.shape[0], -1, -1)
            if keep is not None:
                # Each own key twice weighs each of them half, twice: plain self-attention, without a mask that would
                # take the fast kernels away.
                other = torch.where(keep[:, None, None], other, own)
            joined.append(torch.cat([own, other], dim=1))
        return joined[0], joined[1]


def install(identity: UNet2DConditionModel, denoiser: UNet2DConditionModel) -> None:
    """Hook a pair of stock networks, once: one records reference tokens, one reads them.

    ValueError if they do not have the same transformer blocks.
    """
    shapes = [{name: b.norm1.normalized_shape for name, b in blocks(unet)} for unet in (identity, denoiser)]
    if odd := sorted(set(shapes[0].items()) ^ set(shapes[1].items())):
        raise ValueError(f"identity network and denoiser must have the same transformer blocks; they differ in {odd}")
    for name, block in blocks(identity):
        block.register_forward_pre_hook(RecordTokens(name), with_kwargs=True)
    for name, block in blocks(denoiser):
        readers: tuple[Any, Any] = ReferenceAttention(name, block.norm1), ReferenceAttention(name)
        block.attn1.set_processor(readers[0])
        if block.attn2 is not None:  # cross_attention_kwargs reach text attention too: it needs one that takes them
            block.attn2.set_processor(readers[1])


def record(identity: UNet2DConditionModel, latents: Tensor, text: Tensor) -> ReferenceTokens:
    """Run the identity network once, at t = 0, on *unscaled* latents (B, 4, h, w), and keep what enters its blocks."""
    recorder = Recorder()
    identity(latents, 0, encoder_hidden_states=text, cross_attention_kwargs={"recorder": recorder}, return_dict=False)
    return ReferenceTokens({name: (tokens,) for name, tokens in recorder.tokens.items()})


def project(denoiser: UNet2DConditionModel, reference_tokens: ReferenceTokens) -> ReferenceTokens:
    """Recorded tokens as the denoiser's keys and values, which stay the same over all steps of an edit."""
    projected: dict[str, tuple[Tensor, ...]] = {}
    for name, block in blocks(denoiser):
        reader: Any = block.attn1.processor
        projected[name] = reader.project(block.attn1, reference_tokens.blocks[name][0])
    return ReferenceTokens(projected)
