"""Two stock diffusers UNets as one module: the identity network and the denoiser with the attribute rigger.

Path: config -> `RigFaceModel` -> prediction.
Source: RigFace (arXiv 2502.02465). The released code forks `UNet2DConditionModel` twice; on stock classes the denoiser
is

    in_channels=12                                 noisy, background and render latents, in this order, into `conv_in`
    class_embed_type="simple_projection"           a linear layer on the expression code, added to the time embedding
    projection_class_embeddings_input_dim=E        (the released weights call it `au_aug_mlp`)

and the identity network is an unchanged Stable Diffusion UNet. Layers after its last recorded block reach no output.
Their parameters are frozen here, so that DDP meets no unused parameter.

Shape suffixes: B batch, (4, h, w) latents, L text tokens, D text channels, E expression codes.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from rigface.model.attention import ReferenceTokens, blocks, install, project, record
from rigface.model.recipes.protocol import ConditionedModel

DROPPABLE = ("identity", "attributes", "text")
"""Columns of `drop`. Attributes are render and expression code; the background always stays."""


class RigFaceModel(ConditionedModel):
    """Both networks, one forward.

    Args:
        identity: UNet with `in_channels` of the latents.
        denoiser: UNet with three times as many, and a class embedding for the expression code.
        default_text: (L, D) text of both networks when there is no prompt: the embedding of a neutral prompt, or
            zeros without a text encoder. The identity network has no other text, so that its tokens depend
            on the picture alone.

    Raises:
        ValueError: the two do not fit together.
    """

    def __init__(self, identity: UNet2DConditionModel, denoiser: UNet2DConditionModel, default_text: Tensor) -> None:
        super().__init__()
        channels = identity.config["in_channels"]
        if denoiser.config["in_channels"] != 3 * channels:
            raise ValueError(
                f"denoiser: want {3 * channels} input channels (noisy, background, render latents of {channels}), "
                f"got {denoiser.config['in_channels']}"
            )
        if denoiser.config["class_embed_type"] != "simple_projection":
            raise ValueError("denoiser: want class_embed_type='simple_projection' for the expression code")
        if default_text.ndim != 2 or default_text.shape[1] != denoiser.config["cross_attention_dim"]:
            raise ValueError(
                f"default_text: want (L, {denoiser.config['cross_attention_dim']}), got {tuple(default_text.shape)}"
            )
        install(identity, denoiser)
        self.identity = identity
        self.denoiser = denoiser
        self.register_buffer("default_text", default_text.clone())
        for parameter in dead_tail(identity):
            parameter.requires_grad_(False)

    @property
    def expression_size(self) -> int:
        """E, the length of the expression code."""
        return int(self.denoiser.config["projection_class_embeddings_input_dim"])

    @property
    def networks(self) -> list[nn.Module]:
        return [self.identity, self.denoiser]

    def encode_reference(self, reference: Tensor, text: Tensor | None = None) -> ReferenceTokens:
        """Reference tokens of unscaled latents (B, 4, h, w), projected for any number of steps."""
        return project(self.denoiser, record(self.identity, reference, self._text(text, reference)))

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        background: Tensor,
        render: Tensor,
        expression_code: Tensor,
        text: Tensor | None = None,
        reference: Tensor | None = None,
        reference_tokens: ReferenceTokens | None = None,
        drop: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Tensor:
        """As `ConditionedModel.forward`; a `reference` runs the identity network."""
        text = self._text(text, latents)
        if reference is not None and reference_tokens is None:
            reference_tokens = record(self.identity, reference, self._text(None, reference))
        keep = None
        if drop is not None:
            keep, attributes, silent = ~drop[:, 0], drop[:, 1], drop[:, 2]
            render = torch.where(attributes[:, None, None, None], 0.0, render)
            expression_code = torch.where(attributes[:, None], 0.0, expression_code)
            text = torch.where(silent[:, None, None], self._text(None, latents), text)
        result: Tensor = self.denoiser(
            torch.cat([latents, background, render], dim=1),
            timestep,
            encoder_hidden_states=text,
            class_labels=expression_code,
            cross_attention_kwargs={"reference_tokens": reference_tokens, "keep": keep},
            return_dict=False,
        )[0]
        return result


def build(identity: dict[str, Any], denoiser: dict[str, Any], default_text: Tensor, expression: int) -> RigFaceModel:
    """Both networks with random weights from two diffusers configs, released or own (`stock`)."""
    networks = UNet2DConditionModel(**stock(identity)), UNet2DConditionModel(**stock(denoiser, expression))
    return RigFaceModel(networks[0], networks[1], default_text)


def stock(config: dict[str, Any], expression: int | None = None) -> dict[str, Any]:
    """Arguments of a stock `UNet2DConditionModel` for a saved config of the released code, or an own one.

    A denoiser needs the size of the expression code.
    """
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    if expression is not None:
        arguments |= {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": expression}
    return arguments


def network(
    channels: tuple[int, ...],
    *,
    text_dim: int,
    heads: int | tuple[int, ...] = 8,
    layers: int = 2,
    groups: int = 32,
    latent_channels: int = 4,
    sample_size: int = 64,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configs of identity network and denoiser in the shape of Stable Diffusion 1.5, at any width and depth.

    All levels but the deepest have attention; SD 1.5 has (320, 640, 1280, 1280) channels. `heads` of attention are for
    all levels or level by level; on a CPU few are fast, as each head's softmax is costly.
    """
    attended = len(channels) - 1
    shared = {
        "sample_size": sample_size,
        "out_channels": latent_channels,
        "block_out_channels": list(channels),
        "down_block_types": ["CrossAttnDownBlock2D"] * attended + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * attended,
        "layers_per_block": layers,
        "cross_attention_dim": text_dim,
        # diffusers' historical name: for these models it is the number of heads
        "attention_head_dim": heads if isinstance(heads, int) else list(heads),
        "norm_num_groups": groups,
    }
    return {**shared, "in_channels": latent_channels}, {**shared, "in_channels": 3 * latent_channels}


def widen(conv_in: Tensor, channels: int) -> Tensor:
    """`conv_in` weights (C, 4, 3, 3) with zeros for the added input channels: a network that ignores them for now."""
    wide = conv_in.new_zeros(conv_in.shape[0], channels, *conv_in.shape[2:])
    wide[:, : conv_in.shape[1]] = conv_in
    return wide


def dead_tail(identity: UNet2DConditionModel) -> Iterator[nn.Parameter]:
    """Parameters of the identity network that run after its last recorded block; ValueError if there is none."""
    up_names = [name for name, _ in blocks(identity) if name.startswith("up_blocks.")]
    if not up_names:
        raise ValueError("identity network: want transformer blocks in up_blocks, there are none")
    last = up_names[-1]  # diffusers registers the up blocks in the order they run
    up, attention = map(int, re.findall(r"\d+", last)[:2])
    for name, parameter in identity.named_parameters():
        tail = re.match(r"up_blocks\.(\d+)\.(?:(resnets|attentions)\.(\d+)|upsamplers)\.?", name)
        if name.startswith(
            (f"{last}.", f"up_blocks.{up}.attentions.{attention}.proj_out.", "conv_norm_out.", "conv_out.")
        ):
            yield parameter
        elif tail is not None:
            block, _, index = tail.groups()
            if int(block) > up or (int(block) == up and (index is None or int(index) > attention)):
                yield parameter
