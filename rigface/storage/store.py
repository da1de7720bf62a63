"""Atomic object store on a disk or on S3: readers see the old object, the new one or none, never a part.

Path: stages, and jobs of the service -> `Store.publish` -> disk or S3.

* Disk: write to a temporary file in OUT/.rigface/tmp, fsync, then link (refuses to replace) or rename (replaces).
* S3: `objects.put` of a complete buffer, with `If-None-Match: *` if it must not replace. pyarrow's output stream would
  publish a truncated object after an exception inside its `with`.

Retries of requests to S3 are in `rigface.storage.s3_client`. A Store is pickled as its uri.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from rigface.errors import PlanError, StorageGone, UnsafeFile
from rigface.storage import objects, s3_client
from rigface.storage.read_ahead import ReadAhead

if TYPE_CHECKING:  # a tenth of a second, which commands that read no tables save
    import pyarrow as pa
    import pyarrow.fs as pafs

INTERNAL = ".rigface"
TMP = f"{INTERNAL}/tmp"
TAIL = 64 * 1024  # bytes fetched when an object is opened: the index of most Parquet files here
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """One output folder, by a path or s3://bucket/prefix."""

    def __init__(self, uri: str) -> None:
        self.is_s3 = uri.startswith("s3://")
        self.uri = uri.rstrip("/") if self.is_s3 else os.path.abspath(os.path.expanduser(uri))
        self.root = self.uri.removeprefix("s3://")
        self.before_publish: Callable[[], None] | None = None  # set by `rigface.storage.lock`; may raise

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Store, (self.uri,)

    @property
    def fs(self) -> pafs.FileSystem:
        """For scans of whole folders, and for Ray: `pyarrow.dataset.dataset(store.at("faces"), filesystem=store.fs)`"""
        from pyarrow.fs import LocalFileSystem

        return s3_client.arrow(self.root.split("/")[0]) if self.is_s3 else LocalFileSystem()

    def at(self, path: str) -> str:
        """A path below the root, as `fs` wants it; UnsafeFile if it leads out of the root."""
        if path.startswith("/") or ".." in path.split("/"):
            raise UnsafeFile(f"{self.uri}: {path!r} leads out of it")
        return f"{self.root}/{path}"

    def bucket_and_key(self, path: str) -> tuple[str, str]:
        """Bucket and key of an object on S3."""
        bucket, _, key = self.at(path).partition("/")
        return bucket, key

    def exists(self, path: str) -> bool:
        if not self.is_s3:
            return os.path.exists(self.at(path))
        try:
            objects.head(*self.bucket_and_key(path))
        except FileNotFoundError:
            return False
        return True

    def open(self, path: str) -> BinaryIO:
        """The object as a seekable file, fetched as it is read; FileNotFoundError if there is none."""
        if not self.is_s3:
            return open(self.at(path), "rb")
        return cast(BinaryIO, ReadAhead(objects.Remote(*self.bucket_and_key(path), at_once=-TAIL)))

    def read(self, path: str) -> bytes:
        """The whole object; FileNotFoundError if there is none."""
        if self.is_s3:
            return objects.get(*self.bucket_and_key(path))[0]
        with open(self.at(path), "rb") as f:
            return f.read()

    def table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet object, or some of its columns, fetched alone; FileNotFoundError if there is none, PlanError if it
        is damaged.
        """
        from pyarrow.parquet import ParquetFile

        with self.open(path) as f, self._damage_named(path):
            return ParquetFile(f).read(columns=columns)

    def schema(self, path: str) -> pa.Schema:
        """The schema of a Parquet object; raises as `table`."""
        from pyarrow.parquet import read_schema

        with self.open(path) as f, self._damage_named(path):
            return read_schema(f)

    @contextlib.contextmanager
    def _damage_named(self, path: str) -> Iterator[None]:
        from pyarrow import ArrowInvalid

        try:
            yield
        except ArrowInvalid as e:
            advice = "delete it, and run the command again that made it"
            raise PlanError(f"{self.uri}/{path} is damaged ({str(e).splitlines()[0]}); {advice}") from e

    def publish(self, path: str, data: bytes | pa.Buffer, *, replace: bool = True) -> bool:
        """Make an object appear whole; without `replace`, False if one is there, which stays.

        OutputBusy if another run has taken the output over; see `lock.hold` and `lock.follow`.
        """
        if self.before_publish is not None:
            self.before_publish()
        if not self.is_s3:
            return self._publish_file(path, data, replace)
        try:
            objects.put(*self.bucket_and_key(path), data, if_none=not replace)
        except FileExistsError:
            return False
        return True

    def _publish_file(self, path: str, data: bytes | pa.Buffer, replace: bool) -> bool:
        target, temporary = self.at(path), self.at(f"{TMP}/{uuid.uuid4().hex}")
        try:
            for name in (target, temporary):
                os.makedirs(os.path.dirname(name), exist_ok=True)
            with open(temporary, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            return self._rename(temporary, target, replace)
        except OSError as e:
            if e.errno in NO_ROOM:
                raise StorageGone(
                    f"{self.uri}: {(e.strerror or 'no room').lower()}. What is finished is kept; "
                    "make room and run the same command again."
                ) from e
            raise OSError(e.errno, e.strerror, target) from e
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _rename(self, temporary: str, target: str, replace: bool) -> bool:
        """Give a file its name; False if another had it and stays."""
        if not replace:
            try:
                os.link(temporary, target)
                return True
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: here two writers can both succeed
                if os.path.exists(target):
                    return False
        os.replace(temporary, target)
        return True

    def delete(self, path: str) -> None:
        """Remove an object; it is fine if there is none."""
        if self.is_s3:
            bucket, key = self.bucket_and_key(path)
            objects.delete(bucket, [key])
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.at(path))

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all below it; it is fine if there is none."""
        if self.is_s3:
            bucket, key = self.bucket_and_key(path)
            objects.delete(bucket, objects.keys_unordered(bucket, f"{key}/"))
        else:
            while os.path.exists(self.at(path)):
                with contextlib.suppress(FileNotFoundError):  # another thread removes it, too
                    shutil.rmtree(self.at(path))

    def paths(self, folder: str, suffix: str = "") -> Iterator[str]:
        """Paths (relative to the root) of all objects below a folder, in no particular order; none if it is not there.

        They come as they are listed; in memory are some pages of them.
        """
        if self.is_s3:
            bucket, key = self.bucket_and_key(folder)
            skip = len(self.bucket_and_key("")[1])
            found: Iterator[str] = (k[skip:] for k in objects.keys_unordered(bucket, f"{key}/"))
        else:
            found = self._files(folder)
        return (path for path in found if path.endswith(suffix) and not path.endswith("/"))

    def _files(self, folder: str) -> Iterator[str]:
        for where, _, names in os.walk(self.at(folder)):
            below = os.path.relpath(where, self.root)
            yield from (f"{below}/{name}" for name in names)

    def names(self, folder: str, suffix: str) -> Iterator[str]:
        """Names, without folders and suffix, of the objects below a folder, as they are listed."""
        return (path.rsplit("/", 1)[-1].removesuffix(suffix) for path in self.paths(folder, suffix))

    def ids(self, folder: str, suffix: str) -> set[str]:
        """`names` as a set."""
        return set(self.names(folder, suffix))

    def sweep(self, older_than_s: float = 3600) -> None:
        """Remove temporary files of killed runs. On S3 there are none: an unfinished PUT leaves no trace."""
        if self.is_s3 or not os.path.isdir(self.at(TMP)):
            return
        for entry in os.scandir(self.at(TMP)):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime > older_than_s:
                    os.unlink(entry.path)


def local_path(folder: Path, name: str, origin: str) -> Path:
    """Path below a local folder for a name that comes from elsewhere, such as the key of an object.

    UnsafeFile if it is empty, absolute, has an empty, `.` or `..` segment, or leads out through a link.
    """
    path = folder / name
    is_plain = "\0" not in name and not {"", ".", ".."} & set(name.split("/"))
    if not is_plain or not path.resolve().is_relative_to(folder.resolve()):
        raise UnsafeFile(f"{origin}: {name!r} is no name of a file below it; nothing was written. Remove that object")
    return path


def sharded(folder: str, name: str, suffix: str) -> str:
    """Path of an object below the root, spread over 256 sub-folders by the first two letters of its name."""
    return f"{folder}/{name[:2]}/{name}{suffix}"
