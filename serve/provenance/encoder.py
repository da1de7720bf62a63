"""A finished picture -> the bytes that leave the house.

Path: edited image, the wish, `OutputOptions` -> `Signer` -> PNG, JPEG or WebP. `NoSigner` only encodes; `provenance.py` has the real one.
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
    """A file that something was made of, in the words of C2PA: what was edited, what is seen in it, or what only told how."""

    data: bytes
    role: Literal["parentOf", "componentOf", "inputTo"] = "parentOf"


class Signer(Protocol):
    """Encodes what was made, and knows it again."""

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """(H, W, 3) uint8 as an encoded picture."""

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """The picture with an invisible mark of 32 bits."""

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """An encoded video, with what was done, and to what."""

    def verify(self, data: bytes) -> Verified:
        """Whether these bytes are such a picture or video."""


class NoSigner:
    """Encoded, and nothing else."""

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """As `encode`."""
        return encode(image, output_options)

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """As it is."""
        return image

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """As it is."""
        return data

    def verify(self, data: bytes) -> Verified:
        """Nothing is known."""
        return Verified(made_here=False, manifest="none", record=None, watermark=False, mark=None, score=0.0)


def encode(image: np.ndarray, output_options: OutputOptions) -> bytes:
    """(H, W, 3) uint8 as png, jpeg or webp."""
    if output_options.format == "png":
        return encode_png(image)
    if output_options.format == "jpeg":
        return encode_jpeg(image, output_options.quality)
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", quality=output_options.quality)
    return out.getvalue()
