"""Read-ahead buffer: a remote object as a seekable file that is cheap to read in small steps.

Path: `objects.Remote` -> ReadAhead -> a decoder that asks for 64 kB at a time, or a reader of Parquet.

Each read of S3 costs a round trip of about 30 ms, so more is fetched than is asked for: 256 kB after a seek, doubling
up to 8 MiB while reading is sequential. The last `KEPT` windows (at most 32 MiB) stay in memory, because MP4 jumps
between its index and its data.
"""

import io
from typing import Any

FIRST_WINDOW, MAX_WINDOW = 256 * 1024, 8 * 1024 * 1024  # bytes
KEPT = 4


class ReadAhead(io.RawIOBase):
    """Read-only file over one with `size()`, `read_at(count, offset)` and `close()`, such as pyarrow's."""

    def __init__(self, file: Any) -> None:
        self._file, self._size, self._at = file, file.size(), 0
        self._windows: list[tuple[int, bytes]] = []  # offset and content, last used first

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise ValueError(f"cannot seek to {at}")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._at < self._size:
            start, content = self._window(len(view) - done)
            part = content[self._at - start : self._at - start + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)
            self._at += len(part)
        return done

    def _window(self, count: int) -> tuple[int, bytes]:
        """The window that holds the current position, fetched if need be: `count` bytes or more."""
        for i, (start, content) in enumerate(self._windows):
            if start <= self._at < start + len(content):
                self._windows.insert(0, self._windows.pop(i))
                return self._windows[0]
        previous = [content for start, content in self._windows if start + len(content) == self._at]
        count = min(max(2 * len(previous[0]) if previous else FIRST_WINDOW, count), MAX_WINDOW)
        content = self._file.read_at(min(count, self._size - self._at), self._at)
        if not content:
            raise OSError(f"the object ended at {self._at} of {self._size} bytes; was it replaced while it was read?")
        self._windows = [(self._at, content), *self._windows[: KEPT - 1]]
        return self._windows[0]

    def close(self) -> None:
        if not self.closed:
            self._windows = []
            self._file.close()
        super().close()
