"""Checkpoint folders: this project's format, the released RigFace layout, and Stable Diffusion 1.5 as a start.

Path: folder -> `Checkpoint` -> pipeline or training; training -> `save` -> folder.
The own format is the released layout with stock diffusers configs, and one file more:

    config.json             what the weights mean (`model_config.ModelConfig`); written last
    unet_id/  unet_denoise/ the networks of the recipe `rigface`; those of others: see `recipes/`
    vae/                    config.json, diffusion_pytorch_model.safetensors: diffusers reads each folder on its own
    default_text.safetensors           text embedding when there is no prompt
    text_encoder/  tokenizer/          optional
    model_index.json  scheduler/  README.md     for diffusers and the hub: parts, sampler, model card; not read here

No pickle is ever executed: the own format is safetensors only; a released `.bin` is read as bare tensors or refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from rigface import assets
from rigface.errors import BadCheckpoint, MissingAsset
from rigface.model.checkpoint_folder import folder_of, is_sd15, read_json
from rigface.model.hub import model_card, model_index
from rigface.model.hub.repository import refuse_pickles
from rigface.model.model_config import (
    UPSTREAM_PROMPT,
    ModelConfig,
    Process,
    config_of,
    has_released_layout,
    tiny_config,
)
from rigface.model.recipes.protocol import Checkpoint, recipe_of
from rigface.model.recipes.rigface import read_networks
from rigface.model.stable_diffusion import load_text, load_unet, load_vae
from rigface.model.text import TextEncoder, has_text_encoder
from rigface.model.unets import build, network, widen
from rigface.model.weights import WEIGHTS, fill, read_safetensors, write_safetensors
from rigface.profile import OWN

__all__ = ["Checkpoint", "fresh", "from_sd15", "load", "load_upstream", "save", "sd15_beside", "start", "tiny"]


def start(name: str, **options: Any) -> Checkpoint:
    """Load a checkpoint by name, for training, editing or serving.

    Args:
        name: `mini` (the model that ships), `rigface` (the released weights, adopted), `sd15` (Stable Diffusion 1.5,
            adopted), `sd15:FOLDER` or `sd15:FILE`, `tiny`, or a folder in either layout. A folder may be an s3://
            address or a hub id. A name wins over a folder of that name; `./mini` is a folder.
        options: handed to `from_sd15`, `tiny`, `load_upstream`; the own format takes none.

    Raises:
        MissingAsset, BadCheckpoint, UnsafeFile: see `load`. PlanError, StorageGone: see `folder_of`.
    """
    if name == "tiny":
        return tiny(**options)
    if is_sd15(name):
        return from_sd15(folder_of(name), **options)
    folder = folder_of(name)
    return load_upstream(folder, **options) if has_released_layout(folder) else load(folder, **options)


def load(folder: str | Path) -> Checkpoint:
    """Load a checkpoint in the own format, in float32.

    Raises:
        MissingAsset: it is not there, or not complete.
        UnsafeFile: it holds pickles.
        BadCheckpoint: weights and config do not fit; the message names the keys.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise MissingAsset(f"{folder} is no checkpoint: it has no config.json (which is written last)")
    refuse_pickles(folder)
    config = ModelConfig.from_json(read_json(folder / "config.json"))
    encoder = TextEncoder.load(folder) if has_text_encoder(folder) else None
    default_text = read_safetensors(folder / "default_text.safetensors")["default_text"].float()
    model = recipe_of(config.recipe).read(folder, config, default_text, encoder)
    return _checked(Checkpoint(model, load_vae(folder), config, encoder))


def sd15_beside(folder: Path) -> Path:
    """Stable Diffusion 1.5 for the released networks of a folder: in the same folder, or the asset; or MissingAsset."""
    return folder if (folder / "vae").is_dir() else assets.find("sd15")


def load_upstream(
    folder: str | Path,
    sd15: str | Path | None = None,
    default_text: Tensor | None = None,
    config: ModelConfig | None = None,
    expression: int | None = None,
) -> Checkpoint:
    """Load the released RigFace weights, as diffusers wrote them.

    They were trained on the expression codes of a Basel network (`FaceParams.bfm_expression`). With `expression` they
    are a start for training on a head's own codes: the layer that takes codes begins at zero (its bias stays), all
    others as released.

    Args:
        folder: holds `unet_id/` and `unet_denoise/` (or `checkpoint-N/` below each).
        sd15: Stable Diffusion 1.5 with `vae/`, `text_encoder/` and `tokenizer/`; None: those in `folder`, or the asset
            `sd15`.
        default_text: (L, D), for use without a text encoder.
        config: to record; None: that of the folder, or `RELEASED`.
        expression: size of the expression codes of another head; None: those it was trained on.

    Raises:
        MissingAsset, UnsafeFile, BadCheckpoint: as for `load`.
    """
    folder = Path(folder)
    rest = sd15_beside(folder) if sd15 is None else Path(sd15)
    encoder, default_text = _text(rest, UPSTREAM_PROMPT, default_text)
    vae = load_vae(rest)
    if config is None:
        config = config_of(str(folder))
        config = replace(config, process=replace(config.process, latent_scale=vae.config["scaling_factor"]))
        if expression is not None:
            config = replace(config, expression_field="expression", profile=OWN)
    return _checked(Checkpoint(read_networks(folder, default_text, expression), vae, config, encoder))


def from_sd15(
    place: str | Path,
    expression: int = 52,
    default_text: Tensor | None = None,
    config: ModelConfig | None = None,
) -> Checkpoint:
    """Initialise both networks as the UNet of Stable Diffusion 1.5, from a folder or one `.safetensors` file.

    The added weights start at zero (channels of `conv_in`, the class embedding), so that before the first training step
    the denoiser without reference tokens *is* Stable Diffusion. `expression` is the size of the expression code. With a
    `default_text` the folder needs neither `text_encoder/` nor `tokenizer/`. See `stable_diffusion.py` for the file.
    """
    place = Path(place)
    encoder, default_text = _text(place, "", default_text)
    vae = load_vae(place)
    unet, weights = load_unet(place)
    wide = {**unet, "in_channels": 3 * unet["in_channels"]}
    with torch.device("meta"):
        model = build(unet, wide, default_text.to("meta"), expression)
    fill(model.identity, weights, f"{place}/unet")
    emptied = {
        n: torch.zeros(p.shape) for n, p in model.denoiser.named_parameters() if n.startswith("class_embedding.")
    }
    copies = {name: tensor.clone() for name, tensor in weights.items()}  # two networks train apart
    copies["conv_in.weight"] = widen(copies["conv_in.weight"], wide["in_channels"])
    fill(model.denoiser, {**copies, **emptied}, f"{place}/unet")
    model.default_text = default_text
    config = config or ModelConfig(Process(latent_scale=vae.config["scaling_factor"]))
    return _checked(Checkpoint(model, vae, config, encoder))


def tiny(expression: int = 52, size: int = 32, seed: int = 0, **process: Any) -> Checkpoint:
    """Random toy networks for tests: 32 px pictures in milliseconds. `process` has settings such as `kind="bridge"`."""
    config = tiny_config(expression, size, **process)
    return fresh(config, (16, 32), (8, 16), expression=expression, text=(7, 24), heads=4, layers=1, groups=4, seed=seed)


def fresh(
    config: ModelConfig,
    channels: tuple[int, ...],
    vae_channels: tuple[int, ...],
    *,
    expression: int,
    text: tuple[int, int],
    heads: int | tuple[int, ...] = 8,
    layers: int = 2,
    groups: int = 32,
    latent_channels: int = 4,
    seed: int = 0,
) -> Checkpoint:
    """Random networks of any size in the shape of Stable Diffusion; torch's global generator is left alone.

    Args:
        channels: of the UNets' levels. vae_channels: of the VAE's; each level but the first halves the picture.
        text: (L, D) of the text embedding; the default text is zeros.
    """
    sizes: dict[str, Any] = {"heads": heads, "layers": layers, "groups": groups, "latent_channels": latent_channels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(*network(channels, text_dim=text[1], **sizes), torch.zeros(text), expression)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
            up_block_types=("UpDecoderBlock2D",) * len(vae_channels),
            block_out_channels=vae_channels,
            layers_per_block=layers,
            latent_channels=latent_channels,
            norm_num_groups=min(groups, *vae_channels),
            sample_size=config.size,
            scaling_factor=config.process.latent_scale,
        )
    return _checked(Checkpoint(model, vae, config))


def save(
    folder: str | Path,
    checkpoint: Checkpoint,
    *,
    weights: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    trained: model_card.Trained | None = None,
) -> None:
    """Write a checkpoint folder; it counts as one only when its last file, `config.json`, is there.

    `weights` are a full state dict to write instead of the model's own: an average, or one gathered from shards. Floats
    are stored as `dtype`, such as `torch.float16`; None: as they are. `trained` is told by the model card.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    state = dict(weights) if weights is not None else checkpoint.model.state_dict()
    recipe_of(checkpoint.config.recipe).write(folder, checkpoint, state, dtype)
    checkpoint.vae.save_config(folder / "vae")
    _without_place(folder / "vae" / "config.json")
    write_safetensors(folder / "vae" / f"{WEIGHTS}.safetensors", checkpoint.vae.state_dict(), dtype)
    write_safetensors(folder / "default_text.safetensors", {"default_text": state["default_text"]}, dtype)
    if checkpoint.text_encoder is not None:
        checkpoint.text_encoder.save(folder)
    model_index.write(folder, checkpoint.config.process)
    (folder / "README.md").write_text(model_card.card(checkpoint.config, trained))
    (folder / "config.json").write_text(json.dumps(checkpoint.config.to_json(), indent=2) + "\n")


def _without_place(file: Path) -> None:
    """Remove the local path from a diffusers config that its network was read from."""
    content = read_json(file)
    if content.pop("_name_or_path", None) is not None:
        file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    scale, recorded = checkpoint.vae.config["scaling_factor"], checkpoint.config.process.latent_scale
    if abs(scale - recorded) > 1e-6 * abs(scale):
        raise BadCheckpoint(f"process.latent_scale is {recorded}, but the VAE's scaling_factor is {scale}")
    checkpoint.model.eval()
    checkpoint.vae.eval().requires_grad_(False)
    return checkpoint


def _text(place: Path, prompt: str, given: Tensor | None) -> tuple[TextEncoder | None, Tensor]:
    if given is not None:
        return load_text(place), given.float()
    encoder = load_text(place) or TextEncoder.load(place)  # raises: it is missing
    return encoder, encoder([prompt])[0]
