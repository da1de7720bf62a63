"""An IP-Adapter (Ye et al. 2023, arXiv 2308.06721) on identity vectors: cross attention of its own beside the text's.

    ip-adapter.safetensors     the layout of IP-Adapter FaceID: image_proj.*, ip_adapter.{1,3,5 ...}.to_k_ip, .to_v_ip

diffusers' classes do the work, and its `load_ip_adapter` reads the file. A person is an identity vector (dlib's 128
numbers or ArcFace's 512); neither render nor background is read, so by itself it does not know the wanted pose.
A FaceID file of others fits if its vectors are of the width of the examples', that is, ArcFace's; its low-rank layers
are added to the denoiser's weights, where it has some. Adapters on CLIP's picture embeddings (plain, Plus, Full Face)
are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging
from torch import Tensor

from rigface.errors import BadCheckpoint, PlanError
from rigface.model.recipes.plain import UNET, PlainAdapterRecipe, PlainInputs, PlainModel
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.weights import read_safetensors, write_network, write_safetensors

FILE = "ip-adapter.safetensors"
TOKENS = 4  # per person
_PROJECTION = "encoder_hid_proj.image_projection_layers.0."
_RENAMED = {"ff.net.0.proj.": "proj.0.", "ff.net.2.": "proj.2.", "norm.": "norm."}  # diffusers' names: FaceID's


class IdentityModel(PlainModel):
    """A plain denoiser with an IP-Adapter on identity vectors of a width V."""

    def __init__(self, plain: PlainModel, adapter: Mapping[str, Tensor]) -> None:
        """Load an adapter, in the layout of the file, into the denoiser of a plain model."""
        super().__init__(plain.denoiser, plain.default_text, plain.expression_size)
        parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in adapter.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.width = int(parts["image_proj"]["proj.0.weight"].shape[1])
        loader: Any = self.denoiser
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # it warns of the modules to keep in float32, which are none
        loader._load_ip_adapter_weights(parts, low_cpu_mem_usage=False)
        logging.set_verbosity(verbosity)

    def _person(self, reference: Tensor) -> Tensor:
        return reference[:, None]

    def _added(self, inputs: PlainInputs) -> dict[str, Any]:
        latents, person = inputs.latents, inputs.person
        nobody = latents.new_zeros(len(latents), 1, self.width)
        return {"added_cond_kwargs": {"image_embeds": [nobody if person is None else person.to(latents.dtype)]}}


class IPAdapterRecipe(PlainAdapterRecipe):
    """Keys and values of identity tokens begin as those of text."""

    def build(self, start: Checkpoint, options: RecipeOptions) -> Checkpoint:
        if not options.identity:
            raise PlanError(
                "the examples hold no identity vectors, which this recipe reads: make them with `rigface pair "
                "--identity dlib`"
            )
        built = super().build(start, options)
        return replace(built, config=replace(built.config, identity=options.identity))

    def added_to(self, denoiser: UNet2DConditionModel, start: Checkpoint, options: RecipeOptions) -> PlainModel:
        plain = PlainModel(denoiser, start.model.default_text, start.model.expression_size)
        adapter = fresh(denoiser, options.identity_width)
        if options.weights is not None:
            adapter = read_adapter(options.weights, adapter, denoiser)
        model = IdentityModel(plain, adapter)
        for name, parameter in model.denoiser.named_parameters():
            parameter.requires_grad_(_is_added(name))
        return model

    def restored(self, folder: Path, plain: PlainModel, encoder: TextEncoder | None) -> PlainModel:
        return IdentityModel(plain, read_safetensors(folder / FILE))

    def write(
        self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        denoiser = checkpoint.model.denoiser
        config = {name: value for name, value in dict(denoiser.config).items() if not name.startswith("_")}
        with torch.device("meta"):
            plain = UNet2DConditionModel(**{**config, "encoder_hid_dim_type": None})
        own = {name: t for name, t in state.items() if not _is_added(name.removeprefix("denoiser."))}
        write_network(folder / UNET, plain, own, "denoiser.", dtype)
        self.write_adapter(folder, checkpoint, state)

    def write_adapter(self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
        own = {name.removeprefix("denoiser."): tensor for name, tensor in state.items()}
        adapter = {
            f"image_proj.{public}{name.removeprefix(_PROJECTION + inner)}": tensor
            for inner, public in _RENAMED.items()
            for name, tensor in own.items()
            if name.startswith(_PROJECTION + inner)
        }
        for number, name in enumerate(_cross_attentions(checkpoint.model.denoiser)):
            for layer in ("to_k_ip", "to_v_ip"):
                adapter[f"ip_adapter.{2 * number + 1}.{layer}.weight"] = own[f"{name}.{layer}.0.weight"]
        write_safetensors(folder / FILE, adapter)


def _is_added(name: str) -> bool:
    """True for the parameters of a denoiser that the adapter adds."""
    return name.startswith("encoder_hid_proj.") or ".processor." in name


def _cross_attentions(denoiser: UNet2DConditionModel) -> list[str]:
    """Names of the processors of text attention, in the order in which the layout counts them."""
    return [name for name in denoiser.attn_processors if not name.endswith("attn1.processor")]


def fresh(denoiser: UNet2DConditionModel, width: int) -> dict[str, Tensor]:
    """A new adapter in the layout of the file, for identity vectors of this width."""
    kind: Any = IPAdapterFaceIDImageProjection  # without types
    projection = kind(width, denoiser.config["cross_attention_dim"], 2, TOKENS)
    adapter = {
        f"image_proj.{public}{name.removeprefix(inner)}": tensor
        for inner, public in _RENAMED.items()
        for name, tensor in projection.state_dict().items()
        if name.startswith(inner)
    }
    for number, name in enumerate(_cross_attentions(denoiser)):
        attention: Any = denoiser.get_submodule(name.removesuffix(".processor"))
        adapter[f"ip_adapter.{2 * number + 1}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
        adapter[f"ip_adapter.{2 * number + 1}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
    return adapter


def read_adapter(place: Path, like: Mapping[str, Tensor], denoiser: UNet2DConditionModel) -> dict[str, Tensor]:
    """An adapter from its file or folder, with the names and widths of another; BadCheckpoint if it differs.

    Its low-rank layers are added to the denoiser's weights.
    """
    adapter = read_safetensors(place / FILE if place.is_dir() else place)
    width, want = adapter.get("image_proj.proj.0.weight"), like["image_proj.proj.0.weight"].shape[1]
    if width is None:
        raise BadCheckpoint(
            f"{place}: this IP-Adapter reads CLIP's embeddings of a picture; here a person is an identity vector, so "
            "only IP-Adapter FaceID fits"
        )
    if width.shape[1] != want:
        raise BadCheckpoint(
            f"{place}: this IP-Adapter reads identity vectors of {width.shape[1]} numbers, the examples' have {want}; "
            "ArcFace's have 512 (rigface pair --identity arcface)"
        )
    low_rank = {name: adapter.pop(name).float() for name in list(adapter) if "_lora." in name}
    shapes = [{name: t.shape for name, t in tensors.items()} for tensors in (adapter, like)]
    if odd := sorted(name for name in {*adapter, *like} if shapes[0].get(name) != shapes[1].get(name)):
        raise BadCheckpoint(f"{place}: this IP-Adapter is of another denoiser; {odd[0]} differs")
    try:
        fuse(denoiser, low_rank)
    except (KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise BadCheckpoint(f"{place}: its low-rank layers are of another denoiser: {error}") from error
    return {name: tensor.float() for name, tensor in adapter.items()}


@torch.no_grad()
def fuse(denoiser: UNet2DConditionModel, low_rank: Mapping[str, Tensor]) -> None:
    """Add the low-rank layers of a FaceID file, `ip_adapter.N.to_q_lora.down.weight` ..., to a denoiser's attention.

    N counts all its attentions, of both kinds. W + up down, as the file's authors apply them at scale 1.
    """
    processors = list(denoiser.attn_processors)
    for name, down in low_rank.items():
        start, is_down, _ = name.partition(".down.weight")
        if is_down:
            _, number, layer = start.split(".")
            attention = processors[int(number)].removesuffix(".processor")
            target = layer.removesuffix("_lora") + (".0" if layer.startswith("to_out") else "")
            linear: Any = denoiser.get_submodule(f"{attention}.{target}")
            linear.weight.data = linear.weight + low_rank[f"{start}.up.weight"] @ down  # the start's own stays


RECIPE = IPAdapterRecipe()
