"""Watermark and sign the results of the editing jobs.

Path: edited image -> `write_image`; edited frames -> `frame_marker`, and the finished video -> `sign_video`.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.edit.config import AnimateConfig, EditConfig
from rigface import assets
from rigface.edits import PREVIEW, FaceEdit, record_of
from rigface.errors import BadInput, PlanError
from rigface.image import encode_image
from rigface.provenance.signer import C2paSigner, Origin
from rigface.provenance.signing_keys import FOLDER_VARIABLE
from rigface.storage.whole_file import write_whole


def _bits_of(origins: Sequence[Origin], edits: dict[str, Any], seed: int) -> int:
    """Bits of the watermark, from the sources and the edits: the same command gives the same pixels."""
    digest = hashlib.sha256(json.dumps([edits, seed], sort_keys=True).encode())
    for origin in origins:
        with origin.open() as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return int.from_bytes(digest.digest()[:4], "big")


class EditSigner:
    """Signs one result, made of the files `origins`, or nothing after `--no-sign`; PlanError without a key."""

    def __init__(
        self,
        config: EditConfig | AnimateConfig,
        edits: Sequence[FaceEdit[Any]],
        has_model: bool,
        origins: Sequence[Origin],
    ) -> None:
        self._origins, record = origins, record_of(edits)
        model = config.engine.checkpoint or (assets.default_model() if has_model else PREVIEW)
        self._bits = _bits_of(origins, record, config.engine.seed)
        self._record: dict[str, Any] = {"model": model, **record, "mark": f"{self._bits:08x}"}
        try:
            self._signer = None if config.no_sign else C2paSigner()
        except (OSError, RuntimeError, BadInput) as error:
            raise PlanError(
                f"no signing key: {error}. Name a folder that can be written in {FOLDER_VARIABLE}, or use --no-sign"
            ) from error

    def write_image(self, image: np.ndarray, out: Path) -> None:
        """Encode, sign and write an (H, W, 3) uint8 image, whole or not at all."""
        kind = "png" if out.suffix.lower() == ".png" else "jpeg"
        if self._signer is None:
            data = encode_image(image, kind, 95)  # type: ignore[arg-type]
        else:
            data = self._signer.sign_image(image, self._record, self._origins, kind, 95)  # type: ignore[arg-type]
        write_whole(out, data)

    def frame_marker(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function that puts the watermark into each (H, W, 3) uint8 frame."""
        signer, bits = self._signer, self._bits
        return (lambda image: image) if signer is None else (lambda image: signer.mark(image, bits))

    def sign_video(self, out: Path) -> tuple[str, ...]:
        """Add the manifest to a finished video; notes for the user."""
        if self._signer is None or self._signer.sign_path(out, self._record, self._origins):
            return ()
        return (f"{out.name} has a watermark but no manifest: {out.suffix} files cannot hold one; .mp4 can",)
