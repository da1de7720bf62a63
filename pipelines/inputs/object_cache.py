"""Local cache of S3 inputs: read by range, and copied to this machine's disk once ranges cost more.

Path: `sources.open_uri` of an s3:// uri -> CachedObject -> ReadAhead -> a decoder.

**Rule**: by range, until this machine has fetched an object twice over; then it is copied once, and read from the copy.
Measured on 37 MB of H.264 in 29 units, bytes fetched in lengths of the file: the survey 1.0 in every container (it
counts packets); the units 1.9 (mkv), 2.9 (ts), 3.2 (mp4), and 14.8 in a fragmented mp4, whose index is spread over
the file. A clip of one unit is read twice in all, usually by two machines, and so never copied. The cost is at most
three lengths per machine.

Copies are named by uri and entity tag, so a replaced object is another one. They lie in a folder of RIGFACE_CACHE
(default: the temporary folder) that only this user can access: videos are private and copies are trusted. If other
users could write there, nothing is cached. All copies, including unfinished ones of other processes, take at most
RIGFACE_CACHE_GB (8); the least recently read are deleted first. If the disk is full, inputs are read by range.

Lookups, bytes and evictions are recorded (`metrics.VIDEO_CACHE_...`).
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pipelines.telemetry import metrics
from rigface.errors import StorageGone
from rigface.storage import objects
from rigface.storage.model_cache import folder, is_ours, room
from rigface.storage.objects import Remote

MAX_LENGTHS = 2  # fetched by range, in lengths of the object
READ_AHEAD_BYTES = 8 * 2**20  # more than that: read-ahead alone is no reason to copy
PIECE_BYTES = 8 * 2**20
FETCH_THREADS = 4
DAY_S = 86400.0


class CachedObject:
    """An input on S3, read from there or from a local copy.

    Raises:
        FileNotFoundError, PermissionError: the object is missing or forbidden.
        StorageGone: the storage does not answer.
        OSError: the storage answers, but refuses this object.
    """

    def __init__(self, bucket: str, key: str) -> None:
        with _distinguished(bucket):
            self._remote = Remote(bucket, key)
        about = self._remote.about
        self._size = about.size
        name = hashlib.sha256(f"{bucket}/{key}\0{about.etag}".encode()).hexdigest()[:40]
        self._copy, self._ledger = folder() / f"{name}.copy", folder() / f"{name}.fetched"
        self._has_cache = is_ours(folder())
        self._earlier = _sum(self._ledger) if self._has_cache else 0
        self._may_copy = self._has_cache and self._size <= room()
        self._file, self._read = self._opened(), 0
        metrics.record(metrics.VIDEO_CACHE_LOOKUPS, result="miss" if self._file is None else "hit")

    def size(self) -> int:
        return self._size

    def read_at(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset` on, fewer at the end."""
        fetched = self._earlier + self._remote.fetched + count
        if self._file is None and self._may_copy and fetched > MAX_LENGTHS * self._size + READ_AHEAD_BYTES:
            with _distinguished(self._remote.bucket):
                self._may_copy = self._make_copy()
            self._file = self._opened()
        if self._file is not None:
            data = os.pread(self._file, count, offset)
            self._read += len(data)
            return data
        with _distinguished(self._remote.bucket):
            return self._remote.read_at(count, offset)

    def close(self) -> None:
        metrics.record(metrics.VIDEO_CACHE_BYTES, self._remote.fetched, what="fetched")
        metrics.record(metrics.VIDEO_CACHE_BYTES, self._read, what="read")
        if self._file is not None:
            os.close(self._file)
            self._file = None
        elif self._has_cache and self._remote.fetched > self._size // 8:  # less is a read of its header
            with contextlib.suppress(OSError), open(self._ledger, "a") as f:
                f.write(f"{self._remote.fetched}\n")
        self._remote.close()

    def _opened(self) -> int | None:
        if not self._has_cache:
            return None
        try:
            file = os.open(self._copy, os.O_RDONLY)
        except OSError:
            return None
        if os.fstat(file).st_size != self._size:
            os.close(file)
            return None
        with contextlib.suppress(OSError):
            os.utime(self._copy)  # eviction goes by the time of the last read
        return file

    def _make_copy(self) -> bool:
        """Copy the object; False if there is no room. Does nothing if another process is copying it."""
        aside = self._copy.with_suffix(".part")
        part = -1
        try:
            with _exclusive():
                part = os.open(aside, os.O_RDWR | os.O_CREAT, 0o600)
                if not _locked(part):
                    return True
                if self._copy.exists() or not _make_room(room() - self._size, aside):
                    aside.unlink(missing_ok=True)
                    return self._copy.exists()
                os.truncate(part, self._size)  # from here on other processes count its full size
            starts = range(0, self._size, PIECE_BYTES)
            with ThreadPoolExecutor(FETCH_THREADS) as pool:
                for at, data in zip(starts, pool.map(partial(self._remote.read_at, PIECE_BYTES), starts)):
                    os.pwrite(part, data, at)
            os.replace(aside, self._copy)
            self._ledger.unlink(missing_ok=True)
            metrics.record(metrics.VIDEO_CACHE_BYTES, self._size, what="kept")
        except OSError as e:
            if e.errno is None:  # an error of the storage, not of the disk
                raise
            with contextlib.suppress(OSError):
                if part >= 0:  # else it may be another process's
                    aside.unlink()
            return False
        finally:
            if part >= 0:
                os.close(part)  # releases the lock
        return True


@contextlib.contextmanager
def _distinguished(bucket: str) -> Iterator[None]:
    """Raise OSError instead of StorageGone if the storage answers and only this object fails."""
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
def _exclusive() -> Iterator[None]:
    """Let one process at a time count and evict copies."""
    with open(folder() / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_room(max_bytes: int, own_part: Path) -> bool:
    """Evict the least recently read copies until the rest takes at most `max_bytes`; True on success.

    Abandoned files are removed; copies in progress of other processes stay, and count with their final size.
    """
    copies, left = [], 0
    for entry in os.scandir(folder()):
        with contextlib.suppress(OSError):
            about = entry.stat(follow_symlinks=False)
            if entry.name.endswith(".copy"):
                copies.append((about.st_mtime, about.st_size, entry.path))
                left += about.st_size
            elif entry.name.endswith(".part"):
                if entry.path != str(own_part):
                    left += 0 if _removed_if_abandoned(entry.path) else about.st_size
            elif entry.name.endswith(".fetched") and time.time() - about.st_mtime > DAY_S:
                os.unlink(entry.path)
    for _, size, path in sorted(copies):
        if left <= max_bytes:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)  # open files stay readable
            left -= size
            metrics.record(metrics.VIDEO_CACHE_EVICTIONS)
            metrics.record(metrics.VIDEO_CACHE_BYTES, size, what="evicted")
    return left <= max_bytes


def _removed_if_abandoned(part: str) -> bool:
    """Remove an unfinished copy whose process, and with it its lock, is gone."""
    with open(part, "rb+") as file:
        is_abandoned = _locked(file.fileno())
        if is_abandoned:
            os.unlink(part)
    return is_abandoned
