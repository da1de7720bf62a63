"""An invisible mark in the picture itself: 32 bits that survive JPEG, and that say "made here" when the manifest is gone.

Path: edited image, or each picture of an edited clip -> `embed` -> encode; any picture -> `read`, any clip -> `read_clip`.
Source: spread spectrum in the block DCT (Cox et al., "Secure spread spectrum watermarking for multimedia", IEEE TIP 1997;
blind detection by correlation). Four low coefficients of each 8 x 8 block of brightness each carry one chip of one bit, in
an order that only the holder of the secret knows.

It survives re-encoding and changes of brightness. It does not survive scaling, turning, or a crop that is not on the 8 px
grid: then only the manifest can speak. A small picture carries it less surely (64 px a side: not at all).

In a clip every picture carries the same mark, so that any piece of it does. One picture of a video codec holds little of it; the
mean of many holds more, as what moves averages out and the mark stays. On clips of 360 px a side and more, encoded here, any cut of
16 pictures shows it (scores from 328), at 256 px one of 64 (from 230); means of unmarked ones stay below 62. Encoded again at libx264's
own quality (crf 23) it is found in clips from about 500 px, at crf 28 in none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from typing import Any

import cv2
import numpy as np

from rigface.face.rendering.jit import compiled

BITS = 32
PLACES = ((0, 2), (2, 0), (1, 2), (2, 1))  # low enough to survive, high enough not to be seen
WEAKEST, STRONGEST, PER_TEXTURE = 2.5, 7.0, 0.22  # amplitude of a chip, in coefficient units
CLIP = 24.0  # beyond this a coefficient is the picture's own edge
LOOKS = (1, 16, 64)  # pictures of a clip after which the mark of their mean is read
SURE = 3.0  # standard deviations: with a bit that is less sure, more pictures are looked at
THRESHOLD = 125.0  # of the sum of 32 squared scores; chance gives 32, and this once in 10^12 pictures


@dataclass(frozen=True)
class Mark:
    """What was read.

    Args:
        found: whether this service made the picture. bits: 32 of them. score: sum of squares, about 32 by chance.
        weakest: how far the least sure bit is from a guess, in standard deviations.
    """

    found: bool
    bits: int
    score: float
    weakest: float = 0.0


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
    """(H, W) float32, whole numbers."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


@lru_cache(maxsize=8)
def _pattern(secret: bytes, bits: int, count: int) -> np.ndarray:
    """(count, 64) float32: what is added to each block of strength 1."""
    signs, which = _chips(secret, count)
    said = np.array([1.0 if bits >> i & 1 else -1.0 for i in range(BITS)], np.float32)
    return (signs * said[which]) @ _basis()


def embed(image: np.ndarray, bits: int, secret: bytes) -> np.ndarray:
    """The picture with a mark.

    Args:
        image: (H, W, 3) uint8.
        bits: in [0, 2^32).
    """
    out = image.copy()
    compiled(_add)(out, _pattern(secret, bits, (image.shape[0] // 8) * (image.shape[1] // 8)))
    return out


def _add(out: Any, pattern: Any) -> None:
    """The pattern into the picture, stronger where a block has more texture. Compiled by numba.

    Args:
        out: (H, W, 3) uint8, changed. pattern: (blocks, 64) float32.
    """
    columns = out.shape[1] // 8
    for n in range(len(pattern)):
        top, left = 8 * (n // columns), 8 * (n % columns)
        total: Any = 0.0
        squares: Any = 0.0
        for y in range(top, top + 8):
            for x in range(left, left + 8):
                grey = 0.299 * out[y, x, 0] + 0.587 * out[y, x, 1] + 0.114 * out[y, x, 2]
                total += grey
                squares += grey * grey
        texture = np.sqrt(max(squares / 64 - (total / 64) ** 2, 0.0))
        strength = min(max(PER_TEXTURE * texture, WEAKEST), STRONGEST)
        for y in range(8):
            for x in range(8):
                more = strength * pattern[n, 8 * y + x] + 0.5
                for c in range(3):
                    out[top + y, left + x, c] = np.uint8(min(max(out[top + y, left + x, c] + more, 0.0), 255.0))


def read(image: np.ndarray, secret: bytes) -> Mark:
    """The mark of a picture, or that there is none."""
    return _heard(_brightness(image), secret)


def read_clip(images: Iterable[np.ndarray], secret: bytes) -> Mark:
    """The mark of a clip, or of any piece of one: of its first picture, or else of the mean of more and more.

    Args:
        images: (H, W, 3) uint8 each, in order; no more are taken than `LOOKS` says, and fewer where every bit is sure.
    """
    best, total = Mark(False, 0, 0.0), np.zeros(0, np.float32)
    count = looked = 0
    for image in islice(images, LOOKS[-1]):
        now = _brightness(image)
        if total.shape != now.shape:  # the first, or a clip that changes its size
            total, count = np.zeros_like(now), 0
        total += now
        count += 1
        if count in LOOKS:
            best, looked = max(best, _heard(total / count, secret), key=lambda mark: mark.score), count
            if best.found and best.weakest > SURE:
                return best
    return best if count == looked else max(best, _heard(total / count, secret), key=lambda mark: mark.score)


def _heard(brightness: np.ndarray, secret: bytes) -> Mark:
    blocks = _blocks(brightness)
    if not len(blocks):
        return Mark(False, 0, 0.0)
    signs, which = _chips(secret, len(blocks))
    heard = np.clip(blocks @ _basis().T, -CLIP, CLIP) * signs
    total = np.bincount(which.ravel(), heard.ravel(), BITS)
    noise = np.sqrt(np.bincount(which.ravel(), (heard**2).ravel(), BITS)) + 1e-6
    scores = total / noise
    bits = sum(1 << i for i in range(BITS) if scores[i] > 0)
    score = float((scores**2).sum())
    return Mark(score > THRESHOLD, bits, score, float(np.abs(scores).min()))
