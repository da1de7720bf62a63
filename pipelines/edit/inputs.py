"""Read an input picture; tell pictures from videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from rigface.errors import BadInput, PlanError

if TYPE_CHECKING:
    pass


PICTURES = (".png", ".jpg", ".jpeg")


def picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 from a file.

    Raises:
        PlanError: it is not there, or not a picture.
    """
    from rigface.image import decode

    try:
        return decode(path.read_bytes())
    except OSError as e:
        raise PlanError(f"{path}: {e.strerror or e}") from e
    except BadInput as e:
        raise PlanError(f"{path}: {e.reason}") from e


def kind_of(path: Path) -> Literal["image", "video"]:
    """What a file is, by its content.

    Raises:
        PlanError: it is not there, or neither.
    """
    from rigface.image import SNIFF_BYTES, sniff

    try:
        with path.open("rb") as file:
            head = file.read(SNIFF_BYTES)
    except OSError as e:
        raise PlanError(f"{path}: {e.strerror or e}") from e
    kind = sniff(head)
    if kind == "unknown":
        raise PlanError(f"{path}: neither a picture nor a video")
    return kind
