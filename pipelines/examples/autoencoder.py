"""Make a small autoencoder from the crops of a dataset: the pictures' side of a model that is made from nothing (`mini`).

Path: OUT/faces of `extract` -> crops -> `patches.components` -> `AutoencoderKL` -> OUT/vae, which `encode` and `train` read.
Models that start from Stable Diffusion bring their autoencoder along and never come here.

Nothing is trained: the network is the principal components of squares of the crops (`rigface/model/pca_autoencoder.py`), found in
one pass over at most `max_crops` of them. People held out are only measured on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from pipelines.examples.split import split_of
from rigface.errors import PlanError
from rigface.image import decode as decode_picture
from rigface.model.latents import decode, encode
from rigface.model.pca_autoencoder import components, patch_autoencoder
from rigface.model.weights import WEIGHTS, write_safetensors
from rigface.storage.store import Store

HELD = 32  # pictures of people held out to measure on


@dataclass(frozen=True)
class AutoencoderConfig:
    """What to make."""

    size: int = 128
    """Side of the pictures in pixels."""
    patch: int = 8
    """Side in pixels of the squares; latents are as much smaller than pictures."""
    channels: int = 48
    """Components kept of each square: 48 of the 192 numbers of 8 x 8 px bring a face back at 38 dB."""
    max_crops: int = 4_000
    """Crops looked at, evenly chosen."""
    held_out: float = 0.1
    """Share of people who are only measured on; the rule of `pair`."""


def make_autoencoder(
    faces: str, out: str, config: AutoencoderConfig, say: Callable[[str], None] = print
) -> AutoencoderKL:
    """Make the autoencoder and write it to the folder `vae` below `out`.

    Args:
        faces: a dataset of `extract`. out: folder or s3:// prefix.

    Raises:
        PlanError: there are no faces, or sizes do not fit each other.
    """
    if config.size % config.patch:
        raise PlanError(f"size {config.size} px is no multiple of the squares' {config.patch} px")
    pictures, held = crops(faces, config)
    say(f"{len(pictures)} crops to learn from, {len(held)} of other people to measure on")
    try:
        vae = patch_autoencoder(components(pictures, config.patch, config.channels), config.size)
    except ValueError as e:
        raise PlanError(f"autoencoder: {e}") from e
    chosen = pictures[np.linspace(0, len(pictures) - 1, min(64, len(pictures))).astype(int)]
    with torch.inference_mode():
        spread = torch.cat([encode(vae, part) for part in _tensors(chosen)]).std()
    vae.register_to_config(scaling_factor=round(1.0 / float(spread), 5))
    _publish(Store(out), vae)
    say(f"held-out PSNR {measure(vae, held if len(held) else pictures[:HELD]):.2f} dB")
    return vae


def crops(faces: str, config: AutoencoderConfig) -> tuple[np.ndarray, np.ndarray]:
    """(N, S, S, 3) uint8 crops to learn from, and up to 32 of the people held out.

    Raises:
        PlanError: there are none.
    """
    import cv2

    store = Store(faces)
    parts = sorted(p for p in store.paths("faces", ".parquet") if not p.endswith("schema.parquet"))
    if not parts:
        raise PlanError(f"{store.uri}: there are no faces; make some with `rigface extract`")
    own: list[np.ndarray] = []
    others: list[np.ndarray] = []
    total = sum(1 for _ in _cells(store, parts, ["status"]))
    keep = max(1, total // config.max_crops)
    for i, row in enumerate(_cells(store, parts, ["uri", "track", "identity", "status", "crop"])):
        if row["status"] != "ok" or i % keep:
            continue
        image = cv2.resize(decode_picture(row["crop"]), (config.size, config.size), interpolation=cv2.INTER_AREA)
        is_held = split_of(row["identity"] or f"{row['uri']}#{row['track']}", config.held_out) != "train"
        (others if is_held else own).append(image)
    shape = (0, config.size, config.size, 3)
    chosen = [others[i] for i in np.linspace(0, len(others) - 1, min(HELD, len(others))).astype(int)]
    if not own:
        raise PlanError(f"{store.uri}: nobody to learn from ({len(others)} faces, all of people held out)")
    return np.stack(own), np.stack(chosen) if chosen else np.zeros(shape, np.uint8)


@torch.inference_mode()
def measure(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """PSNR in dB of (N, S, S, 3) uint8 pictures after a round trip through their latents; mean over pictures."""
    values: list[float] = []
    for wanted in _tensors(pictures):
        made = decode(vae, encode(vae, wanted) * vae.config["scaling_factor"]).clamp(0, 1)
        values += (-10 * (made - wanted).square().mean((1, 2, 3)).clamp_min(1e-8).log10()).tolist()
    return float(np.mean(values))


def _tensors(pictures: np.ndarray, rows: int = 8) -> Iterator[Tensor]:
    for start in range(0, len(pictures), rows):
        yield torch.from_numpy(pictures[start : start + rows]).permute(0, 3, 1, 2).float() / 255


def _cells(store: Store, parts: list[str], columns: list[str]) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield from store.table(part, columns).to_pylist()


def _publish(store: Store, vae: AutoencoderKL) -> None:
    """The folder diffusers reads; weights first, so that a config means it is whole."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{WEIGHTS}.safetensors"
        write_safetensors(file, vae.state_dict())
        vae.save_config(folder)
        store.publish(f"vae/{file.name}", file.read_bytes())
        store.publish("vae/config.json", (Path(folder) / "config.json").read_bytes())
