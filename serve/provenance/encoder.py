"""Encode an edited image (PNG, JPEG, WebP), optionally signed.

Path: edited image, `EditInput`, `OutputOptions` -> `Signer` -> file. `NoSigner` only encodes; `serve.provenance.signer` signs.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from rigface.image import encode_jpeg, encode_png
from serve.messages import EditInput, OutputOptions
from serve.schemas import Verified


@dataclass(frozen=True, eq=False)
class Origin:
    """A source file of a result, with its C2PA relationship: edited (parent), visible (component), or a driver (input)."""

    data: bytes
    role: Literal["parentOf", "componentOf", "inputTo"] = "parentOf"


class Signer(Protocol):
    """Encodes and signs results, and verifies files."""

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """Encode and sign an (H, W, 3) uint8 image."""

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """The image with an invisible watermark of 32 bits."""

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """Add a signed manifest to an encoded image or video."""

    def verify(self, data: bytes) -> Verified:
        """The provenance of an image or a video."""


class NoSigner:
    """A signer that only encodes."""

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """As `encode`."""
        return encode(image, output_options)

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """The image, unchanged."""
        return image

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """The file, unchanged."""
        return data

    def verify(self, data: bytes) -> Verified:
        """No manifest, no watermark."""
        return Verified(made_here=False, manifest="none", record=None, watermark=False, mark=None, score=0.0)


def encode(image: np.ndarray, output_options: OutputOptions) -> bytes:
    """Encode an (H, W, 3) uint8 image."""
    if output_options.format == "png":
        return encode_png(image)
    if output_options.format == "jpeg":
        return encode_jpeg(image, output_options.quality)
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", quality=output_options.quality)
    return out.getvalue()
