"""Open an input for the stages: an error while it is read becomes a row of that input.

Path: uri -> `opened` -> read_frames or image.decode. A refusal of the file system is also recorded as a `crash`:
`extract` stops if most inputs fail so, because then the network is down and the videos are not bad.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

from pipelines.inputs import sources
from rigface.errors import BadInput

STAMP_THREADS = 32  # on S3 a stamp is one request


class CannotRead(BadInput):
    """The file system or storage refused the input. A later try may succeed."""


def is_remote(uri: str) -> bool:
    """True if the input is read over the network."""
    return uri.startswith("s3://")


@contextmanager
def handed(uri: str) -> Iterator[BinaryIO | None]:
    """The input, open for a child that may open no files; None if it is remote, or if the child shall say why not."""
    with ExitStack() as stack:
        file = None
        if not is_remote(uri):
            with suppress(OSError, BadInput):
                file = stack.enter_context(sources.open_uri(uri))
        yield file


@contextmanager
def opened(uri: str, file: BinaryIO | None = None) -> Iterator[BinaryIO]:
    """The input as a seekable binary file, which may be open already; BadInput if it is none, CannotRead for any
    OSError while it is open.
    """
    try:
        with file or sources.open_uri(uri) as content:
            yield content
    except FileNotFoundError as e:
        raise CannotRead("no such file") from e
    except PermissionError as e:
        raise CannotRead("this user has no permission to read it") from e
    except OSError as e:
        raise CannotRead(f"cannot be read: {e.strerror or e}") from e


def stamp(uri: str) -> str:
    """Size and date; empty if they cannot be read."""
    try:
        return sources.stamp(uri)
    except (OSError, BadInput):
        return ""


def changed(uris: list[str], known: dict[str, str], root: str = "") -> tuple[list[str], set[str]]:
    """The new and changed inputs, in their order, and the known ones (uri -> stamp) that cannot be read now."""
    old = [uri for uri in uris if uri in known]
    with ThreadPoolExecutor(STAMP_THREADS) as pool:
        now = dict(zip(old, pool.map(lambda uri: stamp(sources.located(uri, root)), old)))
    unreachable = {uri for uri in old if known[uri] and not now[uri]}
    kept = unreachable | {uri for uri in old if known[uri] and known[uri] == now[uri]}
    return [uri for uri in uris if uri not in kept], unreachable
