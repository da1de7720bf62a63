"""Encode an edited image (PNG, JPEG, WebP), optionally signed.

Path: edited image, `EditInput`, `OutputOptions` -> `Signer` -> file. `NoSigner` only encodes; `serve.provenance.signer`
signs.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rigface.image import encode_image
from rigface.provenance.signer import Origin, Verification
from serve.messages import EditInput, OutputOptions


class Signer(Protocol):
    """Encodes and signs results, and verifies files."""

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """Encode and sign an (H, W, 3) uint8 image."""

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """The image with an invisible watermark of 32 bits."""

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """Add a signed manifest to an encoded image or video."""

    def verify(self, data: bytes) -> Verification:
        """The provenance of an image or a video."""


class NoSigner:
    """A signer that only encodes."""

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        return encode_image(image, output_options.format, output_options.quality)

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        return image

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        return data

    def verify(self, data: bytes) -> Verification:
        return Verification(made_here=False, manifest="none")
