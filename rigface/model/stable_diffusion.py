"""Stable Diffusion 1.5 as a folder of diffusers or as one `.safetensors` file in the layout of its authors.

Path: a folder or a file -> load_unet, load_vae, load_text -> `checkpoint.py`.

A single file has neither configs nor a tokenizer. Its configs are those of Stable Diffusion 1.5, with the widths of the
tensors. A folder of the file's name without suffix may hold more: `tokenizer/`, another `vae/`, or a `config.json` in
`unet/`, `vae/` or `text_encoder/` for models of another shape. Without a tokenizer the two standard prompts work.

Nothing is executed: `.ckpt` files are refused, as they are pickles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile
from rigface.model.checkpoint_folder import read_json
from rigface.model.text import TextEncoder, has_text_encoder
from rigface.model.unets import network
from rigface.model.weights import WEIGHTS, fill, read_safetensors, read_weights, variant_of

_unet_to_diffusers: Any = convert_ldm_unet_checkpoint  # the library's functions have no types
_vae_to_diffusers: Any = convert_ldm_vae_checkpoint
_text_to_diffusers: Any = convert_ldm_clip_checkpoint
_UNET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
_TEXT_WIDTH = 768  # CLIP ViT-L/14's, which tells Stable Diffusion 1 from 2


def is_file(place: Path) -> bool:
    """True if a place is one file of weights.

    Raises:
        UnsafeFile: it is a `.ckpt` or another pickle.
    """
    if place.is_file() and place.suffix != ".safetensors":
        raise UnsafeFile(
            f"{place} is not read: a {place.suffix} file executes code when it is opened. Take the .safetensors file"
        )
    return place.is_file()


def load_unet(place: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of the UNet, in diffusers' names and float32.

    Raises:
        MissingAsset: it is not there.
        BadCheckpoint: a damaged file, or another model than Stable Diffusion 1.
    """
    if not is_file(place):
        return read_json(place / "unet" / "config.json"), read_weights(place / "unet")
    tensors = _part(place, _UNET)
    config = _config_beside(place, "unet") or _unet_config(tensors, place)
    return config, _float(_unet_to_diffusers(tensors, config))


def load_vae(place: Path) -> AutoencoderKL:
    """The autoencoder of a Stable Diffusion folder or file, or a folder or file of an autoencoder alone, in float32.

    Raises:
        MissingAsset, BadCheckpoint: as `load_unet`.
    """
    if not is_file(place):
        return _vae_of_folder(place / "vae" if (place / "vae").is_dir() else place)
    beside = place.with_suffix("") / "vae"
    if variant_of(beside) is not None:
        return _vae_of_folder(beside)
    tensors = read_safetensors(place)
    is_diffusers = any(name.startswith("encoder.down_blocks.") for name in tensors)
    prefix = _VAE if any(name.startswith(_VAE) for name in tensors) else ""
    first = "encoder.down_blocks.{}.resnets.0" if is_diffusers else f"{prefix}encoder.down.{{}}.block.0"
    biases = [_need(tensors, f"{first.format(k)}.conv2.bias", place) for k in range(4)]
    config = _config_beside(place, "vae") or _vae_config(biases)
    state = tensors if is_diffusers else _vae_to_diffusers(tensors, config)
    vae: AutoencoderKL = AutoencoderKL(**{name: value for name, value in config.items() if not name.startswith("_")})
    fill(vae, _float(state), str(place))
    return vae


def load_text(place: Path) -> TextEncoder | None:
    """The text encoder; None if a folder has none.

    Raises:
        MissingAsset: a single file has none.
        BadCheckpoint: as `load_unet`.
    """
    if not is_file(place):
        return TextEncoder.load(place) if has_text_encoder(place) else None
    tensors = _text_to_diffusers(_part(place, _TEXT))
    state = {name.removeprefix("text_model."): t for name, t in tensors.items() if not name.endswith("position_ids")}
    config = _config_beside(place, "text_encoder") or _text_config(state)
    model = CLIPTextModel(CLIPTextConfig(**config))
    fill(model, _float(state), str(place))
    return TextEncoder.of(model, place.with_suffix("") / "tokenizer")


def _part(file: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a file below a prefix; BadCheckpoint if there are none."""
    tensors = {name: tensor for name, tensor in read_safetensors(file).items() if name.startswith(prefix)}
    if not tensors:
        raise BadCheckpoint(f"{file}: want Stable Diffusion 1.5 in its authors' layout, there is no {prefix}*")
    return tensors


def _need(tensors: dict[str, Tensor], name: str, file: Path) -> Tensor:
    if name not in tensors:
        raise BadCheckpoint(f"{file}: want Stable Diffusion 1.5 in its authors' layout, {name} is not there")
    return tensors[name]


def _config_beside(file: Path, part: str) -> dict[str, Any] | None:
    beside = file.with_suffix("") / part / "config.json"
    return read_json(beside) if beside.is_file() else None


def _unet_config(tensors: dict[str, Tensor], file: Path) -> dict[str, Any]:
    text = _need(tensors, f"{_UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", file).shape[1]
    if text != _TEXT_WIDTH:
        raise BadCheckpoint(
            f"{file}: want Stable Diffusion 1.5, whose text has {_TEXT_WIDTH} channels; this has {text}"
        )
    first = (_need(tensors, f"{_UNET}input_blocks.{k}.0.out_layers.3.bias", file) for k in (1, 4, 7, 10))
    return network(tuple(len(bias) for bias in first), text_dim=text)[0]


def _vae_config(biases: list[Tensor]) -> dict[str, Any]:
    return {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [len(bias) for bias in biases],
        "layers_per_block": 2,
        "sample_size": 512,
    }


def _text_config(state: dict[str, Tensor]) -> dict[str, Any]:
    width = state["embeddings.position_embedding.weight"].shape[1]
    return {
        "vocab_size": len(state["embeddings.token_embedding.weight"]),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")}),
        "num_attention_heads": width // 64,
        "bos_token_id": len(state["embeddings.token_embedding.weight"]) - 2,
        "eos_token_id": len(state["embeddings.token_embedding.weight"]) - 1,
    }


def _vae_of_folder(folder: Path) -> AutoencoderKL:
    variant = variant_of(folder)
    if variant is None or not (folder / "config.json").is_file():
        raise MissingAsset(
            f"{folder}: want a VAE's config.json and {WEIGHTS}.safetensors, as in a Stable Diffusion folder"
        )
    # diffusers' own reader, because old folders name the VAE's attention differently and it knows how
    vae, info = AutoencoderKL.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        torch_dtype=torch.float32,
        output_loading_info=True,
        variant=variant or None,
    )
    if odd := {k: v for k, v in info.items() if k in ("missing_keys", "unexpected_keys", "mismatched_keys") and v}:
        raise BadCheckpoint(f"{folder}: the VAE's weights do not fit its config: {odd}")
    result: AutoencoderKL = vae
    return result


def _float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}
