"""Inputs of the editing jobs: read an image, tell images from videos."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from rigface.errors import BadInput, PlanError
from rigface.image import SNIFF_BYTES, decode, sniff

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 from a file.

    Raises:
        PlanError: it is missing, or not an image.
    """
    try:
        return decode(path.read_bytes())
    except OSError as e:
        raise PlanError(f"{path}: {e.strerror or e}") from e
    except BadInput as e:
        raise PlanError(f"{path}: {e.reason}") from e


def kind_of(path: Path) -> Literal["image", "video"]:
    """Image or video, by its content.

    Raises:
        PlanError: it is missing, or neither.
    """
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(SNIFF_BYTES))
    except OSError as e:
        raise PlanError(f"{path}: {e.strerror or e}") from e
    if kind == "unknown":
        raise PlanError(f"{path}: neither an image nor a video")
    return kind
