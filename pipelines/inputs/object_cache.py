"""Remote inputs read by range, and a copy on this machine's disk of those for which that is the dearer way.

Path: `sources.open_uri` of an s3:// address -> CachedObject -> ReadAhead -> a decoder.

**Rule**: by range, until this machine has fetched an object twice over; then it is copied once, and read from the copy.
Measured on 37 MB of H.264 in 29 units, bytes fetched in lengths of the file: looking into it 1.0 in every container (its
packets are counted); the units 1.9 (mkv), 2.9 (ts), 3.2 (mp4), and 14.8 in a fragmented mp4, whose index lies all over the
file. A clip that is one unit is read twice in its life, most often by two machines, and so never copied.
What would be best is not known before, but nobody pays more than three lengths per machine.

Copies are named by address and entity tag, so a replaced object is another one. They lie in a folder of this user's alone in
RIGFACE_CACHE (default: the temporary folder), since videos are private and a copy is believed. If somebody else could write
there, nothing is kept. All copies, those being made by other processes included, take RIGFACE_CACHE_GB (8) at most; the ones
longest unread go first. A full disk is no trouble: then it is ranges.

What it does is counted (`measures.VIDEO_CACHE_...`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines.telemetry import metrics
from rigface.errors import StorageGone
from rigface.storage import objects
from rigface.storage.model_cache import folder, is_ours, room
from rigface.storage.objects import Remote

LENGTHS = 2
SPARE = 8 * 2**20  # bytes over: what is read ahead is no reason
PIECE = 8 * 2**20
FETCHERS = 4  # threads
DAY_S = 86400.0


class CachedObject:
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
        self._is_kept = is_ours(folder())
        self._earlier = _sum(self._ledger) if self._is_kept else 0
        self._worth_it = self._is_kept and self._size <= room()
        self._file, self._read = self._opened(), 0
        metrics.record(metrics.VIDEO_CACHE_LOOKUPS, result="miss" if self._file is None else "hit")

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
        metrics.record(metrics.VIDEO_CACHE_BYTES, self._remote.fetched, what="fetched")
        metrics.record(metrics.VIDEO_CACHE_BYTES, self._read, what="read")
        if self._file is not None:
            os.close(self._file)
            self._file = None
        elif self._is_kept and self._remote.fetched > self._size // 8:  # less is a look at its head, not worth a line
            with contextlib.suppress(OSError), open(self._ledger, "a") as f:
                f.write(f"{self._remote.fetched}\n")
        self._remote.close()

    def _opened(self) -> int | None:
        if not self._is_kept:
            return None
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
        """Fetch all of it; False where there is no room for it. Another process that is at it already is left to it."""
        aside = self._copy.with_suffix(".part")
        part = -1
        try:
            with _alone():
                part = os.open(aside, os.O_RDWR | os.O_CREAT, 0o600)
                if not _locked(part):
                    return True
                if self._copy.exists() or not _make_room(room() - self._size, aside):
                    aside.unlink(missing_ok=True)
                    return self._copy.exists()
                os.truncate(part, self._size)  # from here on others count all of it
            starts = range(0, self._size, PIECE)
            with ThreadPoolExecutor(FETCHERS) as pool:
                for at, data in zip(starts, pool.map(self._piece, starts)):
                    os.pwrite(part, data, at)
            os.replace(aside, self._copy)
            self._ledger.unlink(missing_ok=True)
            metrics.record(metrics.VIDEO_CACHE_BYTES, self._size, what="kept")
        except OSError as e:
            if e.errno is None:  # the storage's, not the disk's
                raise
            with contextlib.suppress(OSError):
                if part >= 0:  # else it may be another's
                    aside.unlink()
            return False
        finally:
            if part >= 0:
                os.close(part)  # and with it the lock
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


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process at a time counts and makes room."""
    with open(folder() / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_room(most: int, ours: Path) -> bool:
    """Remove the copies longest unread until all others take at most so many bytes, and what nobody is at any more.

    Returns:
        Whether they do. What other processes are fetching right now stays, and counts with the size it will have.
    """
    found, left = [], 0
    for entry in os.scandir(folder()):
        with contextlib.suppress(OSError):
            about = entry.stat(follow_symlinks=False)
            if entry.name.endswith(".copy"):
                found.append((about.st_mtime, about.st_size, entry.path))
                left += about.st_size
            elif entry.name.endswith(".part"):
                if entry.path != str(ours):
                    left += 0 if _removed_if_left(entry.path) else about.st_size
            elif entry.name.endswith(".fetched") and time.time() - about.st_mtime > DAY_S:
                os.unlink(entry.path)
    for _, size, path in sorted(found):
        if left <= most:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)  # who has it open reads on
            left -= size
            metrics.record(metrics.VIDEO_CACHE_EVICTIONS)
            metrics.record(metrics.VIDEO_CACHE_BYTES, size, what="evicted")
    return left <= most


def _removed_if_left(part: str) -> bool:
    """Remove a half-written copy whose process is gone: its lock is, too."""
    file = os.open(part, os.O_RDWR)
    try:
        if _locked(file):
            os.unlink(part)
            return True
        return False
    finally:
        os.close(file)
