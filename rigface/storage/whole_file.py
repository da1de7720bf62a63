"""Small files that are whole or absent: written beside their name, then renamed to it."""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` for its new content, which replaces it at the end, and is removed after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    short = zlib.crc32(os.fsencode(path.name))  # with the name itself it could be too long
    beside = path.with_name(f".rigface-{os.getpid()}-{short:08x}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all.

    Args:
        mode: rights of the file, less the umask.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    try:
        with replacing(path) as beside, open(beside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as f:
            f.write(data)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from e
