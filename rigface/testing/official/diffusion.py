"""Stand-ins for the diffusion models' files: Stable Diffusion 1.5 and the released RigFace networks.

Path: write_sd15, write_rigface -> folders as published -> `checkpoint.start`.
Source: the layouts of diffusers and of the released RigFace code. The topology is the released one, with 8 to 16
channels, and the numbers are seeded.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from rigface.model.unets import network, stock
from rigface.model.weights import WEIGHTS, write_safetensors

CHANNELS, VAE_CHANNELS, TEXT_CHANNELS, CODES = (8, 16, 16, 16), (8, 8, 16, 16), 16, 64
_UNETS = network(CHANNELS, text_dim=TEXT_CHANNELS, heads=1, groups=4)  # one head: each costs time at 512 px
_Replacement = str | Callable[[re.Match[str]], str]
_ORIGINAL: dict[str, list[tuple[str, _Replacement]]] = {  # replaced in this order
    "unet": [
        (r"^conv_in\.", "input_blocks.0.0."),
        (r"^conv_norm_out\.", "out.0."),
        (r"^conv_out\.", "out.2."),
        (r"^time_embedding\.linear_([12])", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
        (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op"),
        (r"^down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0"),
        (r"^down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1"),
        (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.2.1"),
        (r"^up_blocks\.(\d)\.upsamplers\.0", lambda m: f"output_blocks.{3 * int(m[1]) + 2}.2"),
        (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0"),
        (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1"),
        (r"(?<!transformer_blocks\.0)\.norm1\.", ".in_layers.0."),
        (r"\.conv1\.", ".in_layers.2."),
        (r"(?<!transformer_blocks\.0)\.norm2\.", ".out_layers.0."),
        (r"\.conv2\.", ".out_layers.3."),
        (r"\.time_emb_proj\.", ".emb_layers.1."),
        (r"\.conv_shortcut\.", ".skip_connection."),
    ],
    "vae": [
        (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample"),
        (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"attn_1\.group_norm", "attn_1.norm"),
        (r"attn_1\.to_([qkv])", r"attn_1.\1"),
        (r"attn_1\.to_out\.0", "attn_1.proj_out"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ],
}
_PIPELINE = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "PNDMScheduler"),
}
_SCHEDULE = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def write_sd15(folder: str | Path) -> Path:
    """Write Stable Diffusion 1.5 as a folder in the layout of diffusers; returns the folder."""
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel(**stock(_UNETS[0])).save_pretrained(folder / "unet")
        vae().save_pretrained(folder / "vae")
        text_encoder().save_pretrained(folder / "text_encoder")
    _write_tokenizer(folder / "tokenizer")
    _write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULE)
    _write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **_PIPELINE})
    return folder


def write_sd15_file(file: str | Path, folder: str | Path) -> Path:
    """Write the weights of a Stable Diffusion folder as one file in its authors' layout, with what else they hold.

    The configs go into the folder of the file's name without suffix, as this toy is not of Stable Diffusion's width.
    """
    file, folder = Path(file), Path(folder)
    beside = file.with_suffix("")
    tensors = {"betas": torch.zeros(1000), "alphas_cumprod": torch.zeros(1000), "model_ema.decay": torch.tensor(0.9999)}
    for part, weights in (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model")):
        (beside / part).mkdir(parents=True)
        shutil.copy(folder / part / "config.json", beside / part)
        for name, tensor in load_file(folder / part / f"{weights}.safetensors").items():
            original = original_name(part, name)
            tensors[original] = tensor[..., None, None] if _is_convolution(original, tensor) else tensor
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    write_safetensors(file, tensors)
    return file


def original_name(part: str, name: str) -> str:
    """A parameter of a diffusers folder (`unet`, `vae`, `text_encoder`) as the authors' file calls it."""
    if part == "text_encoder":
        return f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"
    for pattern, replacement in _ORIGINAL[part]:
        name = re.sub(pattern, replacement, name)
    return f"{'first_stage_model' if part == 'vae' else 'model.diffusion_model'}.{name}"


def _is_convolution(original: str, tensor: Tensor) -> bool:
    """True for weights of the VAE's attention, which the authors' file keeps as 1 x 1 convolutions."""
    return original.startswith("first_stage_model") and ".attn_1." in original and tensor.ndim == 2


def write_rigface(folder: str | Path) -> Path:
    """Write both released networks: `unet_id/` and `unet_denoise/`, which fit `write_sd15`; returns the folder."""
    folder = Path(folder)
    for name, config, own_class in zip(
        ("unet_id", "unet_denoise"), _UNETS, ("UNetID2DConditionModel", "UNetDenoise2DConditionModel"), strict=True
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = UNet2DConditionModel(**stock(config, CODES if name == "unet_denoise" else None))
        state = {key.replace("class_embedding.", "au_aug_mlp."): value for key, value in model.state_dict().items()}
        plain = {key: value for key, value in model.config.items() if not key.startswith("_")}
        plain |= {"class_embed_type": None, "projection_class_embeddings_input_dim": None}  # its class adds the layer
        _write_json(folder / name / "config.json", {"_class_name": own_class, "_diffusers_version": "0.22.0", **plain})
        write_safetensors(folder / name / f"{WEIGHTS}.safetensors", state)
    return folder


def vae() -> AutoencoderKL:
    """Stable Diffusion's autoencoder at toy width, with random weights."""
    made: AutoencoderKL = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=VAE_CHANNELS,
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=512,
    )
    return made


def text_encoder() -> CLIPTextModel:
    """CLIP's text model at toy width, for the tokenizer of `write_sd15`."""
    count = len(_pieces())
    config = CLIPTextConfig(
        vocab_size=count,
        hidden_size=TEXT_CHANNELS,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
        pad_token_id=count - 1,
    )
    return CLIPTextModel(config)


def _pieces() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz.,"
    return [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]


def _write_tokenizer(folder: Path) -> None:
    _write_json(folder / "vocab.json", {piece: place for place, piece in enumerate(_pieces())})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    ends |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    _write_json(folder / "special_tokens_map.json", ends)
    settings = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", {**settings, **ends})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")
