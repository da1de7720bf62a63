"""What the small autoencoder is told, and what it is shown: crops in memory, a batch for every step.

Path: OUT/faces -> `crops` -> `batch` -> train_autoencoder.py.

Most steps see windows of the crops at a quarter of the cost, the others whole crops. Some pictures get a flat hole, as the
background condition has one. Step k draws its batch from (seed, k), so a resumed run goes on with the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.split import split_of
from rigface.conditions import HOLE
from rigface.errors import PlanError
from rigface.image import decode
from rigface.storage import Store

EVERY_WHOLE = 4  # of so many steps one sees whole crops
HOLES = 0.15  # share of the pictures that get one


@dataclass(frozen=True)
class AutoencoderConfig:
    """What to train and how long."""

    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Of the levels; each but the first halves the picture."""
    latent_channels: int = 16
    layers: int = 1
    size: int = 128
    """Pictures' side in pixels."""
    window: int = 64
    """Side of the windows that most steps look at."""
    batch: int = 16
    """Windows per step; whole crops are as many fewer as they are larger."""
    steps: int = 1500
    learning_rate: float = 3e-3
    warmup: int = 50
    shake: float = 0.1
    """Noise on latents in training, as a share of their spread: decoding has to bear a denoiser's errors."""
    tether: float = 1e-4
    """Weight of the latents' mean square, which keeps them from growing away from the noise."""
    decay: float = 0.99
    """Of the average of weights that is kept in the end."""
    bf16: bool = True
    """Compute in bfloat16 where it is safe; weights stay float32."""
    seed: int = 0
    save_every: int = 50
    stop_after_s: float = 0.0
    """Finish with what there is after so long; 0: when all steps are done."""
    most: int = 20_000
    """Crops held in memory, evenly chosen."""
    held_out: float = 0.1
    """Share of people who are only measured on; the rule of `pair`."""


def crops(faces: str, config: AutoencoderConfig) -> tuple[np.ndarray, np.ndarray]:
    """(N, S, S, 3) uint8 crops to learn from, and up to 32 of the people held out."""
    import cv2

    store = Store(faces)
    parts = sorted(p for p in store.paths("faces", ".parquet") if not p.endswith("schema.parquet"))
    if not parts:
        raise PlanError(f"{store.uri}: there are no faces; make some with `rigface extract`")
    own: list[np.ndarray] = []
    others: list[np.ndarray] = []
    total = sum(1 for _ in _cells(store, parts, ["status"]))
    keep = max(1, total // config.most)
    for i, row in enumerate(_cells(store, parts, ["uri", "track", "identity", "status", "crop"])):
        if row["status"] != "ok" or i % keep:
            continue
        image = cv2.resize(decode(row["crop"]), (config.size, config.size), interpolation=cv2.INTER_AREA)
        is_held = split_of(row["identity"] or f"{row['uri']}#{row['track']}", config.held_out) != "train"
        (others if is_held else own).append(image)
    shape = (0, config.size, config.size, 3)
    chosen = [others[i] for i in np.linspace(0, len(others) - 1, min(32, len(others))).astype(int)]
    if not own:
        raise PlanError(f"{store.uri}: nobody to learn from ({len(others)} faces, all of people held out)")
    return np.stack(own), np.stack(chosen) if chosen else np.zeros(shape, np.uint8)


def _cells(store: Store, parts: list[str], columns: list[str]) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield from store.table(part, columns).to_pylist()


def batch(pictures: np.ndarray, config: AutoencoderConfig, step: int) -> Tensor:
    """(B, 3, w, w) float32 in [-1, 1] of step `step`: windows, or whole crops; mirrored, re-coloured, some with a hole."""
    random = np.random.default_rng([config.seed, step])
    whole = step % EVERY_WHOLE == 0 or config.window >= config.size
    side = config.size if whole else config.window
    count = max(1, config.batch * config.window**2 // config.size**2) if whole else config.batch
    out = np.empty((count, side, side, 3), np.float32)
    for i, k in enumerate(random.integers(len(pictures), size=count)):
        y, x = random.integers(config.size - side + 1, size=2)
        piece = pictures[k, y : y + side, x : x + side]
        piece = piece[:, ::-1] if random.random() < 0.5 else piece
        lit = (piece / 255.0) ** random.uniform(0.75, 1.3) * random.uniform(0.8, 1.15, 3)
        if random.random() < HOLES:
            rows, columns = np.ogrid[:side, :side]
            cy, cx, ry, rx = random.uniform((0, 0, side / 6, side / 6), (side, side, side / 2, side / 2))
            lit[((rows - cy) / ry) ** 2 + ((columns - cx) / rx) ** 2 < 1] = HOLE / 255.0
        out[i] = lit
    return torch.from_numpy(out.clip(0, 1)).permute(0, 3, 1, 2) * 2 - 1
