"""A finished picture -> the bytes that leave the house.

Path: edited image, the wish, `Wrap` -> `Seal` -> PNG, JPEG or WebP. `plain` only encodes.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from rigface.image import encode_jpeg, encode_png
from serve.api import Wish, Wrap

QUALITY = 94

Seal = Callable[[np.ndarray, Wish, Wrap], bytes]
"""(H, W, 3) uint8, what was wished, how to wrap it -> an encoded picture."""


def plain(image: np.ndarray, wish: Wish, wrap: Wrap) -> bytes:
    """Encoded, and nothing else."""
    return encode(image, wrap.format)


def encode(image: np.ndarray, kind: str) -> bytes:
    """(H, W, 3) uint8 as png, jpeg or webp."""
    if kind == "png":
        return encode_png(image)
    if kind == "jpeg":
        return encode_jpeg(image, QUALITY)
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", quality=QUALITY)
    return out.getvalue()
