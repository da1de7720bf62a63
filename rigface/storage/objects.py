"""Objects on S3: read whole or in part, listed, put whole, handed out by address. Every request goes through `s3.call`.

Path: `storage.Store`, `sources`, `lock` -> here -> `s3.call`. A key is as it is, nothing escaped.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from typing import Any, Literal

from rigface.errors import PlanError, StorageGone
from rigface.storage.s3_client import TooSlow, call, client, silent_s

PAGE = 1000  # keys per request; what S3 gives at most
PART = 16 * 2**20  # bytes of a part; what is larger than two goes up in parts
PARTS = 10_000  # S3's limit
SLOW_BYTES_S = 20_000.0  # an answer that is slower after `silent_s()` is given up
LISTERS = 16  # threads


@dataclass(frozen=True)
class About:
    """What a storage says of an object."""

    size: int
    etag: str
    age_s: float  # by the storage's own clock; for objects that were asked for with `get`


def head(bucket: str, key: str) -> About:
    """Size and entity tag of an object.

    Raises:
        FileNotFoundError and the others of `call`.
    """
    answer = call(lambda s3: s3.head_object(Bucket=bucket, Key=key), f"s3://{bucket}/{key}")
    return About(answer["ContentLength"], answer["ETag"], _age(answer))


def get(
    bucket: str, key: str, start: int = 0, count: int | None = None, etag: str = "", patience: float | None = None
) -> tuple[bytes, About]:
    """An object or a part of it, whole or not at all; `About.size` is the size of all of it.

    Args:
        start: below 0: so many bytes from the end.
        etag: it must still be this one.

    Raises:
        FileExistsError: it is another one by now. And the others of `call`.
    """
    wanted: dict[str, str] = {"IfMatch": etag} if etag else {}
    if start < 0:
        wanted["Range"] = f"bytes={start}"
    elif count is not None:
        wanted["Range"] = f"bytes={start}-{start + count - 1}"

    def ask(s3: Any) -> tuple[bytes, About]:
        answer = s3.get_object(Bucket=bucket, Key=key, **wanted)
        data = _body(answer["Body"], answer["ContentLength"])
        size = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(data)
        return data, About(size, answer["ETag"], _age(answer))

    return call(ask, f"s3://{bucket}/{key}", patience)


def _body(body: Any, size: int) -> bytes:
    began, parts, got = time.monotonic(), [], 0
    try:
        for part in body.iter_chunks(256 * 1024):  # raises where it ends early
            parts.append(part)
            got += len(part)
            took = time.monotonic() - began
            if got < size and took > silent_s() and got < SLOW_BYTES_S * took:
                raise TooSlow(f"{got} bytes in {took:.0f} s")
    finally:
        body.close()
    return b"".join(parts)


def _age(answer: dict[str, Any]) -> float:
    from email.utils import parsedate_to_datetime

    now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return (parsedate_to_datetime(now) - answer["LastModified"]).total_seconds() if now else 0.0


class Remote:
    """An object as something with `size()`, `read_at(count, offset)` and `close()`, for `ReadAhead`.

    Some bytes come with the size, in one request. Every later one is of the same object or fails.

    Args:
        at_once: how many bytes to fetch at once; below 0: the last ones, where Parquet keeps its index.

    Raises:
        FileNotFoundError and the others of `call`.
    """

    def __init__(self, bucket: str, key: str, at_once: int = 256 * 1024) -> None:
        self.bucket, self.key = bucket, key
        try:
            self._known, self.about = get(bucket, key, min(at_once, 0), max(at_once, 0) or None)
        except OSError as e:
            if "InvalidRange" not in str(e):
                raise
            self._known, self.about = b"", head(bucket, key)  # there is no first byte: it is empty
        self._known_at = self.about.size - len(self._known) if at_once < 0 else 0
        self.fetched = len(self._known)

    def size(self) -> int:
        return self.about.size

    def read_at(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset` on, fewer at the end.

        Raises:
            OSError: the object was replaced since it was opened. And the others of `call`.
        """
        count = min(count, self.about.size - offset)
        if count <= 0:
            return b""
        if self._known_at <= offset and offset + count <= self._known_at + len(self._known):
            return self._known[offset - self._known_at : offset - self._known_at + count]
        try:
            data, _ = get(self.bucket, self.key, offset, count, self.about.etag)
        except FileExistsError as e:
            raise OSError(f"s3://{self.bucket}/{self.key} was replaced while it was read") from e
        self.fetched += len(data)
        return data

    def close(self) -> None:
        self._known = b""


def pages(bucket: str, prefix: str, limit: int = 0, folders: bool = False) -> Iterator[tuple[list[str], list[str]]]:
    """Keys in the order of their bytes, a page at a time: (keys, with `folders` the prefixes up to the next /).

    Args:
        limit: keys at most, in one page; 0: all.

    Raises:
        as `call`.
    """
    wanted: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": limit or PAGE}
    if folders:
        wanted["Delimiter"] = "/"
    while True:
        answer = call(lambda s3: s3.list_objects_v2(**wanted), f"s3://{bucket}/{prefix}")
        yield (
            [entry["Key"] for entry in answer.get("Contents", ())],
            [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())],
        )
        if limit or not answer.get("IsTruncated"):
            return
        wanted["ContinuationToken"] = answer["NextContinuationToken"]


def keys(bucket: str, prefix: str, limit: int = 0) -> Iterator[str]:
    """Keys in the order of their bytes; one page of them is in memory."""
    for found, _ in pages(bucket, prefix, limit):
        yield from found


def keys_unordered(bucket: str, prefix: str) -> Iterator[str]:
    """Keys in no order: what lies in sub-folders is listed side by side, because a listing is a chain of pages.

    In memory are some pages and the names of the sub-folders.
    """
    below: list[str] = []
    for found, folders in pages(bucket, prefix, folders=True):
        yield from found
        below += folders
    ready: Queue[list[str] | BaseException | None] = Queue(2 * LISTERS)
    left = threading.Event()

    def walk(folder: str) -> None:
        if left.is_set():
            return
        for found, _ in pages(bucket, folder):
            ready.put(found)
            if left.is_set():
                return

    def walk_all() -> None:
        try:
            with ThreadPoolExecutor(LISTERS) as pool:
                for _ in pool.map(walk, below):
                    pass
            ready.put(None)
        except BaseException as e:
            ready.put(e)

    thread = threading.Thread(target=walk_all, daemon=True)
    thread.start()
    try:
        while (some := ready.get()) is not None:
            if isinstance(some, BaseException):
                raise some
            yield from some
    finally:
        left.set()
        while thread.is_alive():  # let those go who wait with a page in their hands
            with contextlib.suppress(Exception):
                ready.get(timeout=0.05)


def put(
    bucket: str, key: str, data: Any, if_none: bool = False, patience: float | None = None, if_match: str = ""
) -> str:
    """Make an object appear whole, in parts where it is large; returns its entity tag.

    Args:
        data: bytes or anything with a buffer.
        if_none: only where there is none. if_match: only over this one.

    Raises:
        FileExistsError: the condition does not hold. After a try whose answer was lost, that may be because of
            ourselves.
        FileNotFoundError: no such bucket; with `if_match`, no such object. And the others of `call`.
    """
    view = memoryview(data).cast("B")
    condition = {"IfNoneMatch": "*"} if if_none else {"IfMatch": if_match} if if_match else {}
    where = {"Bucket": bucket, "Key": key}
    if len(view) > 2 * PART:
        return _put_parts(where, view, condition)
    body = bytes(view)
    result: str = call(lambda s3: s3.put_object(**where, Body=body, **condition), f"s3://{bucket}/{key}", patience)[
        "ETag"
    ]
    return result


def _put_parts(where: dict[str, str], view: memoryview, condition: dict[str, str]) -> str:
    what = f"s3://{where['Bucket']}/{where['Key']}"
    size = max(PART, -(-len(view) // PARTS))
    upload = {**where, "UploadId": call(lambda s3: s3.create_multipart_upload(**where), what)["UploadId"]}

    def send(number: int) -> dict[str, Any]:
        body = bytes(view[(number - 1) * size : number * size])
        answer = call(lambda s3: s3.upload_part(**upload, PartNumber=number, Body=body), f"{what} part {number}")
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(send, range(1, -(-len(view) // size) + 1)))
        whole = {"MultipartUpload": {"Parts": parts}}
        try:
            result: str = call(lambda s3: s3.complete_multipart_upload(**upload, **whole, **condition), what)["ETag"]
            return result
        except FileNotFoundError:  # no such upload: an earlier try completed it, and its answer was lost
            there = head(where["Bucket"], where["Key"])
            if there.size != len(view):
                raise
            return there.etag
    except BaseException:
        with contextlib.suppress(Exception):  # else parts stay, and are paid for, until a lifecycle rule takes them
            call(lambda s3: s3.abort_multipart_upload(**upload), what, patience=10)
        raise


def delete(bucket: str, names: Iterable[str]) -> None:
    """Remove objects; it is fine if there are none. One by one, because not every look-alike knows how to do many."""

    def one(key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            call(lambda s3: s3.delete_object(Bucket=bucket, Key=key), f"s3://{bucket}/{key}")

    with ThreadPoolExecutor(LISTERS) as pool:
        for _ in pool.map(one, names):
            pass


def presigned(uri: str, method: Literal["GET", "PUT"] = "GET", seconds: int = 3600, media_type: str = "") -> str:
    """An address with which anybody may fetch, or put, this one object for a while, without keys.

    Args:
        uri: s3://bucket/key.
        media_type: of the answer to a GET; empty: as it was put.

    Raises:
        ValueError: not such an address, or longer than a week, which S3 does not allow.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise ValueError(f"want s3://bucket/key, got {uri}")
    if not 0 < seconds <= 7 * 86400:
        raise ValueError(f"want 1 to 604800 seconds, got {seconds}")
    operation = {"GET": "get_object", "PUT": "put_object"}[method]
    wanted = {"Bucket": bucket, "Key": key} | ({"ResponseContentType": media_type} if media_type else {})
    result: str = client().generate_presigned_url(operation, Params=wanted, ExpiresIn=seconds)
    return result


def answers(bucket: str) -> bool:
    """Whether the storage is there at all, asked once; a refusal is an answer."""
    try:
        call(lambda s3: s3.head_bucket(Bucket=bucket), f"s3://{bucket}", patience=0)
    except StorageGone:
        return False
    except (OSError, PlanError):
        return True
    return True
