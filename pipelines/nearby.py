"""Remote inputs read by range, and a copy on this machine's disk of those for which that is the dearer way.

Path: `sources.open_uri` of an s3:// address -> Nearby -> ReadAhead -> a decoder.

**Rule**: by range, until this machine has fetched an object twice over; then it is copied once, and read from the copy.
Measured on 37 MB of H.264 in 29 units, bytes fetched in lengths of the file: looking into it 1.0 in every container (its
packets are counted); the units 1.9 (mkv), 2.9 (ts), 3.2 (mp4), and 14.8 in a fragmented mp4, whose index lies all over the
file. A clip that is one unit is read twice in its life, most often by two machines, and so never copied.
What would be best is not known before, but nobody pays more than three lengths per machine.

Copies are named by address and entity tag, so a replaced object is another one. They lie in RIGFACE_CACHE (default: a folder
among the temporary ones), RIGFACE_CACHE_GB (8) of them at most; the ones longest unread go first. A full disk is no trouble:
then it is ranges.

What it does is counted (`measures.VIDEO_CACHE_...`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines import measures
from rigface import objects
from rigface.errors import StorageGone
from rigface.objects import Remote

LENGTHS = 2
SPARE = 8 * 2**20  # bytes over: what is read ahead is no reason
PIECE = 8 * 2**20
FETCHERS = 4  # threads
DAY_S = 86400.0


def folder() -> Path:
    """Where copies lie."""
    told = os.environ.get("RIGFACE_CACHE")
    return Path(told) if told else Path(tempfile.gettempdir()) / f"rigface-cache-{os.getuid()}"


def room() -> int:
    """Bytes that all copies may take."""
    return int(float(os.environ.get("RIGFACE_CACHE_GB") or 8) * 1e9)


class Nearby:
    """An input on S3 as something with `size()`, `read_at(count, offset)` and `close()`.

    Raises:
        FileNotFoundError, PermissionError: as their names say.
        StorageGone: the storage is away.
        OSError: it answers, but does not give this object out.
    """

    def __init__(self, bucket: str, key: str) -> None:
        with _blamed(bucket):
            self._remote = Remote(bucket, key)
        about = self._remote.about
        self._size = about.size
        name = hashlib.sha256(f"{bucket}/{key}\0{about.etag}".encode()).hexdigest()[:40]
        self._copy, self._ledger = folder() / f"{name}.copy", folder() / f"{name}.fetched"
        self._earlier = _sum(self._ledger)
        self._worth_it = self._size <= room()
        self._file, self._read = self._opened(), 0
        measures.tell(measures.VIDEO_CACHE_LOOKUPS, result="miss" if self._file is None else "hit")

    def size(self) -> int:
        return self._size

    def read_at(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset` on, fewer at the end."""
        fetched = self._earlier + self._remote.fetched + count
        if self._file is None and self._worth_it and fetched > LENGTHS * self._size + SPARE:
            with _blamed(self._remote.bucket):
                self._worth_it = self._make_copy()
            self._file = self._opened()
        if self._file is not None:
            data = os.pread(self._file, count, offset)
            self._read += len(data)
            return data
        with _blamed(self._remote.bucket):
            return self._remote.read_at(count, offset)

    def close(self) -> None:
        measures.tell(measures.VIDEO_CACHE_BYTES, self._remote.fetched, what="fetched")
        measures.tell(measures.VIDEO_CACHE_BYTES, self._read, what="read")
        if self._file is not None:
            os.close(self._file)
            self._file = None
        elif self._remote.fetched > self._size // 8:  # less is a look at its head, not worth a line
            with contextlib.suppress(OSError):
                folder().mkdir(parents=True, exist_ok=True)
                with open(self._ledger, "a") as f:
                    f.write(f"{self._remote.fetched}\n")
        self._remote.close()

    def _opened(self) -> int | None:
        try:
            file = os.open(self._copy, os.O_RDONLY)
        except OSError:
            return None
        if os.fstat(file).st_size != self._size:
            os.close(file)
            return None
        with contextlib.suppress(OSError):
            os.utime(self._copy)  # read now; eviction goes by it
        return file

    def _make_copy(self) -> bool:
        """Fetch all of it; False where the disk does not take it. Another process that is at it already is left to it."""
        aside = self._copy.with_suffix(".part")
        try:
            folder().mkdir(parents=True, exist_ok=True)
            with open(aside, "ab") as f:  # not `wb`, which would empty what another is writing
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._copy.exists():
                    return True
                _evict(room() - self._size)
                starts = range(0, self._size, PIECE)
                with open(aside, "r+b") as whole, ThreadPoolExecutor(FETCHERS) as pool:
                    for at, data in zip(starts, pool.map(self._piece, starts)):
                        os.pwrite(whole.fileno(), data, at)
                os.replace(aside, self._copy)
                self._ledger.unlink(missing_ok=True)
                measures.tell(measures.VIDEO_CACHE_BYTES, self._size, what="kept")
        except BlockingIOError:
            return True
        except OSError as e:
            if e.errno is None:  # the storage's, not the disk's
                raise
            with contextlib.suppress(OSError):
                aside.unlink()
            return False
        return True

    def _piece(self, at: int) -> bytes:
        return self._remote.read_at(PIECE, at)


@contextlib.contextmanager
def _blamed(bucket: str) -> Iterator[None]:
    """Tell a storage that is away from one that is there and will not give this object out."""
    try:
        yield
    except StorageGone as e:
        if objects.answers(bucket):
            raise OSError(str(e)) from e
        raise


def _sum(ledger: Path) -> int:
    try:
        return sum(int(line) for line in ledger.read_text().split())
    except (OSError, ValueError):
        return 0


def _evict(most: int) -> None:
    """Remove the copies longest unread until at most so many bytes are left, and what was forgotten a day ago."""
    found = []
    for entry in os.scandir(folder()):
        with contextlib.suppress(OSError):
            about = entry.stat()
            if entry.name.endswith(".copy"):
                found.append((about.st_mtime, about.st_size, entry.path))
            elif time.time() - about.st_mtime > DAY_S:
                os.unlink(entry.path)
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= most:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)  # who has it open reads on
            left -= size
            measures.tell(measures.VIDEO_CACHE_EVICTIONS)
            measures.tell(measures.VIDEO_CACHE_BYTES, size, what="evicted")
