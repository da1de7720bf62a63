"""Objects on S3: get, range reads, listings, atomic puts, deletes and presigned addresses.

Path: `store.Store`, inputs, `lock` -> here -> `s3_client.call`. Keys are not escaped.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Literal

from rigface.errors import PlanError, StorageGone
from rigface.storage.s3_client import TooSlow, call, client, silent_s

PAGE = 1000  # keys per request, S3's maximum
PART = 16 * 2**20  # bytes of a part; objects larger than two are uploaded in parts
PARTS = 10_000  # S3's limit
SLOW_BYTES_S = 20_000.0  # an answer that is slower after `silent_s()` is given up
LISTERS = 16  # threads

Pages = Iterator[tuple[list[str], list[str]]]
"""Keys and prefixes of each page of a listing."""


@dataclass(frozen=True)
class About:
    """Metadata of an object."""

    size: int
    etag: str
    age_s: float  # by the storage's own clock


def head(bucket: str, key: str) -> About:
    """Size and entity tag of an object; raises as `call`."""
    answer = call(lambda s3: s3.head_object(Bucket=bucket, Key=key), f"s3://{bucket}/{key}")
    return About(answer["ContentLength"], answer["ETag"], _age(answer))


def get(
    bucket: str, key: str, start: int = 0, count: int | None = None, etag: str = "", patience: float | None = None
) -> tuple[bytes, About]:
    """An object or a range of it, complete or not at all; `About.size` is the size of the whole object.

    `start` below 0 means so many bytes from the end. FileExistsError if it has another tag than `etag` by now; and the
    errors of `call`.
    """
    options: dict[str, str] = {"IfMatch": etag} if etag else {}
    if start < 0:
        options["Range"] = f"bytes={start}"
    elif count is not None:
        options["Range"] = f"bytes={start}-{start + count - 1}"

    def ask(s3: Any) -> tuple[bytes, About]:
        answer = s3.get_object(Bucket=bucket, Key=key, **options)
        data = _body(answer["Body"], answer["ContentLength"])
        size = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(data)
        return data, About(size, answer["ETag"], _age(answer))

    return call(ask, f"s3://{bucket}/{key}", patience)


def _body(body: Any, size: int) -> bytes:
    began, parts, got = time.monotonic(), [], 0
    try:
        for part in body.iter_chunks(256 * 1024):  # raises if it ends early
            parts.append(part)
            got += len(part)
            took = time.monotonic() - began
            if got < size and took > silent_s() and got < SLOW_BYTES_S * took:
                raise TooSlow(f"{got} bytes in {took:.0f} s")
    finally:
        body.close()
    return b"".join(parts)


def _age(answer: dict[str, Any]) -> float:
    now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return (parsedate_to_datetime(now) - answer["LastModified"]).total_seconds() if now else 0.0


class Remote:
    """An object with `size()`, `read_at(count, offset)` and `close()`, for `ReadAhead`; raises as `call`.

    The first request brings the size and the first `at_once` bytes, or below 0 the last ones, where Parquet keeps its
    index. Every later one is of the same version of the object, or fails.
    """

    def __init__(self, bucket: str, key: str, at_once: int = 256 * 1024) -> None:
        self.bucket, self.key = bucket, key
        try:
            self._known, self.about = get(bucket, key, min(at_once, 0), max(at_once, 0) or None)
        except OSError as e:
            if "InvalidRange" not in str(e):
                raise
            self._known, self.about = b"", head(bucket, key)  # an empty object
        self._known_at = self.about.size - len(self._known) if at_once < 0 else 0
        self.fetched = len(self._known)

    def size(self) -> int:
        return self.about.size

    def read_at(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset` on, fewer at the end; OSError if the object was replaced since it was opened."""
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


def pages(bucket: str, prefix: str, limit: int = 0, folders: bool = False) -> Pages:
    """Keys in the order of their bytes, a page at a time: (keys, with `folders` the prefixes up to the next /).

    With a `limit`, at most so many keys in one page.
    """
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": limit or PAGE}
    if folders:
        options["Delimiter"] = "/"
    while True:
        answer = call(lambda s3: s3.list_objects_v2(**options), f"s3://{bucket}/{prefix}")
        yield (
            [entry["Key"] for entry in answer.get("Contents", ())],
            [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())],
        )
        if limit or not answer.get("IsTruncated"):
            return
        options["ContinuationToken"] = answer["NextContinuationToken"]


def keys(bucket: str, prefix: str, limit: int = 0) -> Iterator[str]:
    """Keys in the order of their bytes; one page of them is in memory."""
    for found, _ in pages(bucket, prefix, limit):
        yield from found


def keys_unordered(bucket: str, prefix: str) -> Iterator[str]:
    """Keys in no order: sub-folders are listed in parallel. In memory are some pages and the sub-folders' names."""
    folders: list[str] = []
    for names, subfolders in pages(bucket, prefix, folders=True):
        yield from names
        folders += subfolders
    unlisted = iter(folders)

    def next_page(listing: Pages) -> tuple[Pages | None, list[str]]:
        page = next(listing, None)
        return (None, []) if page is None else (listing, page[0])

    with ThreadPoolExecutor(LISTERS) as pool:
        running = {pool.submit(next_page, pages(bucket, folder)) for folder in islice(unlisted, LISTERS)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                listing, names = future.result()
                yield from names
                if listing is None and (folder := next(unlisted, None)) is not None:
                    listing = pages(bucket, folder)
                if listing is not None:
                    running.add(pool.submit(next_page, listing))


def put(
    bucket: str, key: str, data: Any, if_none: bool = False, patience: float | None = None, if_match: str = ""
) -> str:
    """Write an object (bytes or a buffer) atomically, in parts if it is large; returns its entity tag.

    With `if_none` only if there is none, with `if_match` only over the object with this entity tag: FileExistsError if
    that does not hold, perhaps because of an earlier try whose answer was lost; FileNotFoundError without such an
    object. And the errors of `call`.
    """
    view = memoryview(data).cast("B")
    condition = {"IfNoneMatch": "*"} if if_none else {"IfMatch": if_match} if if_match else {}
    where = {"Bucket": bucket, "Key": key}
    if len(view) > 2 * PART:
        return _put_parts(where, view, condition)
    body = bytes(view)
    answer = call(lambda s3: s3.put_object(**where, Body=body, **condition), f"s3://{bucket}/{key}", patience)
    return str(answer["ETag"])


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
            answer = call(lambda s3: s3.complete_multipart_upload(**upload, **whole, **condition), what)
            return str(answer["ETag"])
        except FileNotFoundError:  # no such upload: an earlier try completed it, and its answer was lost
            about = head(where["Bucket"], where["Key"])
            if about.size != len(view):
                raise
            return about.etag
    except BaseException:
        with contextlib.suppress(Exception):  # else its parts stay, and cost money, until a lifecycle rule removes them
            call(lambda s3: s3.abort_multipart_upload(**upload), what, patience=10)
        raise


def delete(bucket: str, names: Iterable[str]) -> None:
    """Remove objects; missing ones are ignored. Key by key, because not every S3 server can delete many at once."""

    def delete_key(key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            call(lambda s3: s3.delete_object(Bucket=bucket, Key=key), f"s3://{bucket}/{key}")

    with ThreadPoolExecutor(LISTERS) as pool:
        for _ in pool.map(delete_key, names):
            pass


def presigned(uri: str, method: Literal["GET", "PUT"] = "GET", seconds: int = 3600, media_type: str = "") -> str:
    """An address that lets anybody get, or put, s3://bucket/key for a while without credentials.

    `media_type` is that of the answer to a GET; empty: as it was put. ValueError for another address, or over a week.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise ValueError(f"want s3://bucket/key, got {uri}")
    if not 0 < seconds <= 7 * 86400:
        raise ValueError(f"want 1 to 604800 seconds, got {seconds}")
    operation = {"GET": "get_object", "PUT": "put_object"}[method]
    params = {"Bucket": bucket, "Key": key} | ({"ResponseContentType": media_type} if media_type else {})
    return str(client().generate_presigned_url(operation, Params=params, ExpiresIn=seconds))


def answers(bucket: str) -> bool:
    """True if the storage answers at all, asked once; a refusal is an answer."""
    try:
        call(lambda s3: s3.head_bucket(Bucket=bucket), f"s3://{bucket}", patience=0)
    except StorageGone:
        return False
    except (OSError, PlanError):
        pass
    return True
