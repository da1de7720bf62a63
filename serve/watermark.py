"""An invisible mark in the picture itself: 32 bits that survive JPEG, and that say "made here" when the manifest is gone.

Path: edited image -> `embed` -> encode; any picture -> `read`.
Source: spread spectrum in the block DCT (Cox et al., "Secure spread spectrum watermarking for multimedia", IEEE TIP 1997;
blind detection by correlation). Four low coefficients of each 8 x 8 block of brightness each carry one chip of one bit, in
an order that only the holder of the secret knows.

It survives re-encoding and changes of brightness. It does not survive scaling, turning, or a crop that is not on the 8 px
grid: then only the manifest can speak. A small picture carries it less surely (64 px a side: not at all).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

BITS = 32
PLACES = ((0, 2), (2, 0), (1, 2), (2, 1))  # low enough to survive, high enough not to be seen
WEAKEST, STRONGEST, PER_TEXTURE = 2.5, 7.0, 0.22  # amplitude of a chip, in coefficient units
CLIP = 24.0  # beyond this a coefficient is the picture's own edge
THRESHOLD = 125.0  # of the sum of 32 squared scores; chance gives 32, and this once in 10^12 pictures


@dataclass(frozen=True)
class Mark:
    """What was read.

    Args:
        found: whether this service made the picture. bits: 32 of them. score: sum of squares, about 32 by chance.
    """

    found: bool
    bits: int
    score: float


@cache
def _basis() -> np.ndarray:
    """(4, 64) orthonormal DCT patterns."""
    n = np.arange(8)
    rows = np.cos((2 * n[None] + 1) * n[:, None] * np.pi / 16) * np.where(n == 0, np.sqrt(1 / 8), 0.5)[:, None]
    return np.stack([np.outer(rows[u], rows[v]).ravel() for u, v in PLACES]).astype(np.float32)


@lru_cache(maxsize=8)
def _chips(secret: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 4) signs, and which bit each carries."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(b"watermark" + secret).digest()[:16], "little"))
    signs = random.integers(0, 2, (count, 4), np.int8).astype(np.float32) * 2 - 1
    return signs, random.integers(0, BITS, (count, 4), np.int8)


def _blocks(brightness: np.ndarray) -> np.ndarray:
    """(rows * columns, 64) of an (H, W) array; what does not fill a block is left out."""
    rows, columns = brightness.shape[0] // 8, brightness.shape[1] // 8
    cut = brightness[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8)
    return cut.transpose(0, 2, 1, 3).reshape(-1, 64)


def _brightness(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def embed(image: np.ndarray, bits: int, secret: bytes) -> np.ndarray:
    """The picture with a mark.

    Args:
        image: (H, W, 3) uint8.
        bits: in [0, 2^32).
    """
    blocks = _blocks(_brightness(image))
    signs, which = _chips(secret, len(blocks))
    said = np.array([1.0 if bits >> i & 1 else -1.0 for i in range(BITS)], np.float32)
    strength = np.clip(PER_TEXTURE * blocks.std(1), WEAKEST, STRONGEST)[:, None]
    added = (signs * said[which] * strength) @ _basis()
    rows, columns = image.shape[0] // 8, image.shape[1] // 8
    flat = added.reshape(rows, columns, 8, 8).transpose(0, 2, 1, 3).reshape(rows * 8, columns * 8)
    out = image.copy()
    place = out[: rows * 8, : columns * 8]
    place[:] = np.clip(place + flat[..., None] + 0.5, 0, 255).astype(np.uint8)
    return out


def read(image: np.ndarray, secret: bytes) -> Mark:
    """The mark of a picture, or that there is none."""
    blocks = _blocks(_brightness(image))
    if not len(blocks):
        return Mark(False, 0, 0.0)
    signs, which = _chips(secret, len(blocks))
    heard = np.clip(blocks @ _basis().T, -CLIP, CLIP) * signs
    total = np.bincount(which.ravel(), heard.ravel(), BITS)
    noise = np.sqrt(np.bincount(which.ravel(), (heard**2).ravel(), BITS)) + 1e-6
    scores = total / noise
    bits = sum(1 << i for i in range(BITS) if scores[i] > 0)
    score = float((scores**2).sum())
    return Mark(score > THRESHOLD, bits, score)
