"""A folder that only ever shows whole objects, on a disk or on S3.

Path: stages, and jobs of the service -> `Store.publish` -> a reader sees the old object, the new one or none, never a part.

* Disk: write aside in OUT/.rigface/tmp, fsync, then link (refuses to replace) or rename (replaces).
* S3: one PUT of a complete buffer, with `If-None-Match: *` where it must not replace. pyarrow's output stream is not used
  to write: an exception inside its `with` publishes the truncated object.

AWS_ENDPOINT_URL is honoured, so that S3 look-alikes work. A Store travels to other processes as its uri.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

INTERNAL = ".rigface"
TMP = f"{INTERNAL}/tmp"
IDENTITIES = f"{INTERNAL}/identities.npz"


@functools.cache
def filesystem(scheme: str, bucket: str = "") -> pafs.FileSystem:
    """The pyarrow file system for `s3` or for this machine; one per process."""
    if scheme != "s3":
        return pafs.LocalFileSystem()
    options: dict[str, Any] = {"retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=10)}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        options["scheme"], options["endpoint_override"] = endpoint.split("://", 1)
    return pafs.S3FileSystem(region=region or ("us-east-1" if endpoint else pafs.resolve_s3_region(bucket)), **options)


@functools.cache
def s3_client() -> Any:
    """boto3's client: conditional writes, which pyarrow does not know. One per process; it is thread-safe."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 10}))


class Store:
    """One output folder.

    Args:
        uri: a path, or s3://bucket/prefix.
    """

    def __init__(self, uri: str) -> None:
        self.is_s3 = uri.startswith("s3://")
        self.uri = uri.rstrip("/") if self.is_s3 else os.path.abspath(os.path.expanduser(uri))
        self.root = self.uri.removeprefix("s3://")

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Store, (self.uri,)

    @property
    def fs(self) -> pafs.FileSystem:
        """For readers: `pyarrow.dataset.dataset(store.at("faces"), filesystem=store.fs)`."""
        return filesystem("s3", self.root.split("/")[0]) if self.is_s3 else filesystem("file")

    def at(self, path: str) -> str:
        """A path below the root, as `fs` wants it."""
        return f"{self.root}/{path}"

    def exists(self, path: str) -> bool:
        return self.fs.get_file_info(self.at(path)).type != pafs.FileType.NotFound

    def read(self, path: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.fs.open_input_file(self.at(path)) as f:
            return f.read()

    def table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet object, or some of its columns; only those are fetched.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.fs.open_input_file(self.at(path)) as f:
            return pq.ParquetFile(f).read(columns=columns)

    def publish(self, path: str, data: bytes | pa.Buffer, *, replace: bool = True) -> bool:
        """Make an object appear whole.

        Args:
            replace: False leaves an object that is already there as it is.

        Returns:
            False where an object was there and stayed.
        """
        return self._publish_s3(path, data, replace) if self.is_s3 else self._publish_file(path, data, replace)

    def _publish_file(self, path: str, data: bytes | pa.Buffer, replace: bool) -> bool:
        target, aside = self.at(path), self.at(f"{TMP}/{uuid.uuid4().hex}")
        for name in (target, aside):
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(aside, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        if replace:
            os.replace(aside, target)
            return True
        try:
            os.link(aside, target)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: the gap between the two calls is the price
            if os.path.exists(target):
                return False
            os.replace(aside, target)
            return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
        return True

    def _publish_s3(self, path: str, data: bytes | pa.Buffer, replace: bool) -> bool:
        from botocore.exceptions import ClientError

        bucket, _, prefix = self.root.partition("/")
        key = f"{prefix}/{path}" if prefix else path
        condition = {} if replace else {"IfNoneMatch": "*"}
        try:
            s3_client().put_object(Bucket=bucket, Key=key, Body=bytes(data), **condition)
        except ClientError as e:
            if not replace and e.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            raise
        return True

    def delete(self, path: str) -> None:
        """Remove an object; it is fine if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self.at(path))

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all below it; it is fine if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_dir(self.at(path))

    def paths(self, folder: str, suffix: str = "") -> Iterator[str]:
        """Paths (relative to the root) of all objects below a folder, in no particular order; none if it is not there.

        On S3 the sub-folders are listed in parallel, because a listing is a chain of pages of 1000.
        """
        top = self.fs.get_file_info(pafs.FileSelector(self.at(folder), allow_not_found=True))
        yield from self._files(top, suffix)
        below = [info.path for info in top if info.type == pafs.FileType.Directory]
        with ThreadPoolExecutor(16 if self.is_s3 else 1) as pool:
            for infos in pool.map(self._below, below):
                yield from self._files(infos, suffix)

    def _below(self, path: str) -> list[pafs.FileInfo]:
        return self.fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))

    def _files(self, infos: list[pafs.FileInfo], suffix: str) -> list[str]:
        return [i.path[len(self.root) + 1 :] for i in infos if i.type == pafs.FileType.File and i.path.endswith(suffix)]

    def ids(self, folder: str, suffix: str) -> set[str]:
        """Names, without folders and suffix, of the objects below a folder."""
        return {path.rsplit("/", 1)[-1].removesuffix(suffix) for path in self.paths(folder, suffix)}

    def sweep(self, older_than_s: float = 3600) -> None:
        """Remove what killed runs left aside. On S3 there is nothing: an unfinished PUT leaves no trace."""
        if self.is_s3 or not os.path.isdir(self.at(TMP)):
            return
        for entry in os.scandir(self.at(TMP)):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime > older_than_s:
                    os.unlink(entry.path)


def sharded(folder: str, name: str, suffix: str) -> str:
    """Where an object lies below the root: spread over 256 sub-folders by the first two letters of its name."""
    return f"{folder}/{name[:2]}/{name}{suffix}"
