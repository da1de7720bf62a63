"""A small autoencoder from the crops of a dataset, for models trained from scratch (`mini`).

Path: OUT/faces of `extract` -> crops -> `pca_autoencoder.components` -> `AutoencoderKL` -> OUT/vae, which `encode` and
`train` read. Models that start from Stable Diffusion have an autoencoder of their own.

Nothing is trained: the network is the principal components of patches of the crops
(`rigface/model/pca_autoencoder.py`), computed in one pass over at most `max_crops` of them. Held-out people are used
for measuring only.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from pipelines import run_info
from pipelines.examples.config import AutoencoderConfig
from pipelines.examples.split import split_of
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.image import decode as decode_picture
from rigface.model.latents import decode, encode
from rigface.model.pca_autoencoder import components, patch_autoencoder
from rigface.model.weights import WEIGHTS, write_safetensors
from rigface.storage import lock
from rigface.storage.store import Store

MAX_HELD_OUT = 32  # pictures of held-out people to measure on


def make_autoencoder(
    faces: str, out: str, config: AutoencoderConfig, say: Callable[[str], None] = print
) -> AutoencoderKL:
    """Make an autoencoder from a dataset of faces and write it to the folder `vae` below `out`.

    PlanError if there are no faces, `size` is not a multiple of `patch`, or OUT belongs to another command; OutputBusy
    if another run writes to OUT.
    """
    if config.size % config.patch:
        raise PlanError(f"size {config.size} px is not a multiple of the patches' {config.patch} px")
    store = Store(out)
    with lock.hold(store):
        run_info.load_own(store, "autoencoder", ("vae",))
        vae, held_out = _made(faces, config, say)
        run_info.write(store, {"patches": asdict(config), "made_from": Store(faces).uri} | run_info.software())
        _publish(store, vae)
    say(f"held-out PSNR {measure(vae, held_out):.2f} dB")
    return vae


def _made(faces: str, config: AutoencoderConfig, say: Callable[[str], None]) -> tuple[AutoencoderKL, np.ndarray]:
    """The autoencoder, and (N, S, S, 3) uint8 pictures to measure it on."""
    pictures, held_out = crops(faces, config)
    say(f"{len(pictures)} crops to learn from, {len(held_out)} of held-out people to measure on")
    try:
        vae = patch_autoencoder(components(pictures, config.patch, config.channels), config.size)
    except ValueError as e:
        raise PlanError(f"autoencoder: {e}") from e
    some = pictures[np.linspace(0, len(pictures) - 1, min(64, len(pictures))).astype(int)]
    with torch.inference_mode():
        spread = torch.cat([encode(vae, part) for part in _tensors(some)]).std()
    vae.register_to_config(scaling_factor=round(1.0 / float(spread), 5))
    return vae, held_out if len(held_out) else pictures[:MAX_HELD_OUT]


def crops(faces: str, config: AutoencoderConfig) -> tuple[np.ndarray, np.ndarray]:
    """(N, S, S, 3) uint8 crops to learn from, and up to 32 of held-out people; PlanError if N is 0."""
    store = Store(faces)
    learned: list[np.ndarray] = []
    held_out: list[np.ndarray] = []
    total = sum(len(batch.rows) for batch in Faces(store).batches(["status"]))
    keep = max(1, total // config.max_crops)
    for i, row in enumerate(_cells(store, ["uri", "track", "identity", "status", "crop"])):
        if row["status"] != "ok" or i % keep:
            continue
        image = cv2.resize(decode_picture(row["crop"]), (config.size, config.size), interpolation=cv2.INTER_AREA)
        split = split_of(row["identity"] or f"{row['uri']}#{row['track']}", config.held_out_fraction)
        (learned if split == "train" else held_out).append(image)
    shape = (0, config.size, config.size, 3)
    measured = [held_out[i] for i in np.linspace(0, len(held_out) - 1, min(MAX_HELD_OUT, len(held_out))).astype(int)]
    if not learned:
        raise PlanError(f"{store.uri}: no faces to learn from ({len(held_out)} faces, all of held-out people)")
    return np.stack(learned), np.stack(measured) if measured else np.zeros(shape, np.uint8)


@torch.inference_mode()
def measure(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """PSNR in dB of (N, S, S, 3) uint8 pictures after a round trip through their latents; mean over pictures."""
    values: list[float] = []
    for batch in _tensors(pictures):
        decoded = decode(vae, encode(vae, batch) * vae.config["scaling_factor"]).clamp(0, 1)
        values += (-10 * (decoded - batch).square().mean((1, 2, 3)).clamp_min(1e-8).log10()).tolist()
    return float(np.mean(values))


def _tensors(pictures: np.ndarray, rows: int = 8) -> Iterator[Tensor]:
    for start in range(0, len(pictures), rows):
        yield torch.from_numpy(pictures[start : start + rows]).permute(0, 3, 1, 2).float() / 255


def _cells(store: Store, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in Faces(store).batches(columns, rows=64):
        yield from batch.rows.to_pylist()


def _publish(store: Store, vae: AutoencoderKL) -> None:
    """Publish the folder for diffusers. Its config is removed first and written last: with it the folder is whole."""
    store.delete("vae/config.json")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{WEIGHTS}.safetensors"
        write_safetensors(file, vae.state_dict())
        vae.save_config(folder)
        store.publish(f"vae/{file.name}", file.read_bytes())
        store.publish("vae/config.json", (Path(folder) / "config.json").read_bytes())
