"""Inputs of the editing jobs: read an image, tell images from videos, name a file in its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from rigface.errors import BadInput, NoFace, PlanError
from rigface.image import SNIFF_BYTES, sniff
from rigface.terminal import os_error_sentence
from rigface.video.sandbox import DecoderPool

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DECODE_S = 60.0  # time that an image may take
SMALL_FACES_HINT = ". If it is small or seen from behind, try --small-faces"


@contextmanager
def errors_named(path: Path, flag: str = "") -> Iterator[None]:
    """Turn errors about a file into a PlanError with its name, after the flag that gave it."""
    try:
        yield
    except BadInput as e:
        hint = SMALL_FACES_HINT if isinstance(e, NoFace) else ""
        raise PlanError(f"{flag}{path}: {e.reason}{hint}") from e
    except OSError as e:
        e.filename = e.filename or str(path)
        raise PlanError(f"{flag}{os_error_sentence(e)}") from e


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 from a file; PlanError if it is missing, not an image, or takes too long or too much memory."""
    with errors_named(path):
        return decode_confined(path.read_bytes())


def decode_confined(data: bytes, linear: bool = False) -> np.ndarray:
    """As `image.decode`, or `decode_linear`, in a confined process of this command."""
    return _decoders().picture(data, limit_s=DECODE_S, linear=linear)


def start_decoder() -> None:
    """Start the confined process, which loads while this process imports what an edit needs."""
    _decoders().start()


@cache
def _decoders() -> DecoderPool:
    return DecoderPool(silence_s=DECODE_S)


def kind_of(path: Path) -> Literal["image", "video"]:
    """Image or video, by its content; PlanError if it is missing, or neither."""
    with errors_named(path), path.open("rb") as file:
        kind = sniff(file.read(SNIFF_BYTES))
    if kind == "unknown":
        raise PlanError(f"{path}: neither an image nor a video")
    return kind
