"""Open an input for the stages: whatever goes wrong while it is read is the input's trouble and becomes a row.

Path: uri -> `opened` -> video.frames or image.decode. Unless it happens to most inputs: a record says `crash` then, and
`extract` stops when they pile up (a network that is down makes no bad videos).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO

from pipelines.inputs import sources
from rigface.errors import BadInput

STAMPING = 32  # threads: on S3 a stamp is one request


class CannotRead(BadInput):
    """The file system would not give the input out. It may do so another time."""


@contextmanager
def opened(uri: str) -> Iterator[BinaryIO]:
    """The input as a seekable binary file.

    Raises:
        CannotRead: any OSError while it is open.
        BadInput: it is no file.
    """
    try:
        with sources.open_uri(uri) as file:
            yield file
    except FileNotFoundError as e:
        raise CannotRead("no such file") from e
    except PermissionError as e:
        raise CannotRead("may not be read by this user") from e
    except OSError as e:
        raise CannotRead(f"cannot be read: {e.strerror or e}") from e


def stamp(uri: str) -> str:
    """Size and date; empty where there are none to be had."""
    try:
        return sources.stamp(uri)
    except (OSError, BadInput):
        return ""


def changed(uris: list[str], known: dict[str, str]) -> list[str]:
    """Those of the inputs whose stamp is not the known one, in their order.

    Args:
        known: uri -> stamp when it was last looked into.
    """
    old = [uri for uri in uris if uri in known]
    with ThreadPoolExecutor(STAMPING) as pool:
        same = {uri for uri, now in zip(old, pool.map(stamp, old)) if now and now == known[uri]}
    return [uri for uri in uris if uri not in same]
