"""Listing and opening of inputs: folders, globs, lists and single files, on a disk or on S3.

Path: arguments of the command line -> `find_all` -> uris -> `open_uri`, in any process on any node.

A **uri** is an absolute path, or s3://bucket/key with the key unescaped: both keep spaces, brackets and every
alphabet. Only a local name that is not UTF-8, which a Parquet column cannot hold, is written as file:// with its
bytes percent-encoded. In a dataset with a root, a uri is relative to it (`relative`), and has no address by itself
(`located`).

These are inputs:
* a folder or an s3:// prefix: every file below it with the suffix of an image or a video (`MEDIA`), in the order of
  names; hidden files and folders are left out. Links are followed; loops and second paths to one file are not.
* a glob (`**` too): its matches; the same suffixes only, unless the pattern itself ends in a suffix.
* a list: .txt (a uri per line), .csv or .parquet (column `uri`). Relative paths in it start at the list's own folder.
* the manifest.json of an S3 Inventory: the keys that it lists, by suffix, without a request to the bucket.
* any other named file: itself, with any suffix. If it cannot be read, that becomes a row.

An existing name is never treated as a glob. The order is the order given, and a uri comes once.
Suffixes only decide what is *listed*; the type of a file is decided by its content.
"""

import errno
import glob
import hashlib
import heapq
import io
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pipelines.inputs import manifests
from pipelines.inputs.compact_set import CompactSet
from pipelines.inputs.object_cache import CachedObject
from rigface.errors import BadInput, PlanError
from rigface.storage import objects
from rigface.storage.read_ahead import ReadAhead

_VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".ts"))
_MORE_VIDEOS = frozenset((".m2ts", ".mts", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".ogg", ".3gp", ".3g2", ".gif"))
_BARE_STREAMS = frozenset((".mjpeg", ".mjpg", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".m1v"))
_IMAGES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"))
_HEIC = frozenset((".heic", ".heif"))  # read by an extra; without it they become a row with a reason
MEDIA = _VIDEOS | _MORE_VIDEOS | _BARE_STREAMS | _IMAGES | _HEIC
MAX_IMAGE_BYTES = 2**30

Listed = tuple[str, str]  # uri, and the real path, by which duplicates are found

log = logging.getLogger(__name__)


def find_all(videos: Iterable[str], root: str = "") -> Iterator[str]:
    """The uris of all inputs, each once, relative to the root if there is one.

    In memory are the names of one folder or page (of a glob on a disk: all matches, for sorting), and 12 bytes per uri.

    Raises:
        PlanError: at once, if one of `videos` does not exist or is malformed; at the end, if there is no input at all;
            on the way, if an input does not lie below the root.
    """
    listed = chain.from_iterable([_expand(named) for named in videos])
    return (relative(uri, root) for uri in _distinct(listed))


def relative(uri: str, root: str) -> str:
    """The uri as a dataset with this root holds it, as it is without one; PlanError if it does not lie below."""
    if not root:
        return uri
    is_s3 = uri.startswith("s3://")
    path, folder = uri if is_s3 else _local(uri, PlanError), root.rstrip("/") + "/"
    if not path.startswith(folder):
        raise PlanError(f"{uri} does not lie below the root {root}")
    return path.removeprefix(folder) if is_s3 else _uri(path.removeprefix(folder))


def located(uri: str, root: str) -> str:
    """The address of a dataset's uri, to open it: the inverse of `relative`."""
    if not root:
        return uri
    if root.startswith("s3://"):
        return f"{root}/{uri}"
    path = os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))) if uri.startswith("file://") else uri
    return _uri(f"{root.rstrip('/')}/{path}")


def sample(uris: Iterable[str], count: int) -> tuple[list[str], int]:
    """A sample of the uris, and their number. It is chosen by hash, so the same uris give the same sample."""
    kept: list[tuple[int, str]] = []  # a heap whose first element has the largest hash
    total = 0
    for uri in uris:
        total += 1
        digest = int.from_bytes(hashlib.sha256(os.fsencode(uri)).digest())
        (heapq.heappush if len(kept) < count else heapq.heappushpop)(kept, (-digest, uri))
    return [uri for _, uri in sorted(kept, reverse=True)], total


def _distinct(listed: Iterable[Listed]) -> Iterator[str]:
    seen = CompactSet()
    for uri, real in listed:
        if seen.add(os.fsencode(real)):
            yield uri
    if not len(seen):
        raise PlanError("no input found: no file has a suffix of a video or image; one named directly may have any")


def _expand(named: str) -> Iterator[Listed]:
    if named.startswith("s3://"):
        return _expand_s3(named)
    path = os.path.abspath(os.path.expanduser(_local(named, PlanError)))
    if os.path.isdir(path):
        return _walk(path, set())
    if os.path.lexists(path):
        is_list = manifests.is_list(path) and os.path.isfile(path)
        return _listed(_uri(path), os.path.dirname(path)) if is_list else iter([(_uri(path), os.path.realpath(path))])
    if not glob.has_magic(path):
        raise PlanError(f"no such file or folder: {path}")
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise PlanError(f"nothing matches {path}")
    return _matched(matches, by_suffix=not re.search(r"\.\w+$", path))


def _matched(paths: list[str], by_suffix: bool) -> Iterator[Listed]:
    walked: set[str] = set()
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, walked)
        elif not by_suffix or _suffix(path) in MEDIA:
            yield _uri(path), os.path.realpath(path)


def _walk(folder: str, walked: set[str]) -> Iterator[Listed]:
    """Files below a folder; `walked` holds the real paths of the folders entered so far, against loops."""
    real = os.path.realpath(folder)
    if real in walked:
        return
    walked.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except PermissionError:
        log.warning("skipped, this user has no permission to list it: %s", folder)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, walked)
        elif _suffix(entry.name) in MEDIA and (entry.is_file() or entry.is_symlink()):  # a dangling link becomes a row
            here = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            yield _uri(entry.path), here


def _expand_s3(named: str) -> Iterator[Listed]:
    bucket, key = _bucket_and_key(named)
    if not bucket:
        raise PlanError(f"want s3://bucket/prefix, got {named}")
    if key and not key.endswith("/"):
        if any(first == key for first in _keys(bucket, key, limit=1)):  # the key itself sorts first
            return _listed(named, named.rpartition("/")[0]) if manifests.is_list(key) else iter([(named, named)])
        if any(_keys(bucket, key + "/", limit=1)):
            key += "/"
    if not any(_keys(bucket, key, limit=1)):
        hint = "; globs work on disks only, on S3 use a prefix" if glob.has_magic(key) else ""
        raise PlanError(f"no objects at {named}{hint}")
    uris = (f"s3://{bucket}/{k}" for k in _keys(bucket, key) if _is_media_key(k[len(key) :]))
    return ((uri, uri) for uri in uris)


def _is_media_key(key: str) -> bool:
    return _suffix(key) in MEDIA and not any(part.startswith(".") for part in key.split("/"))


def _keys(bucket: str, prefix: str, limit: int = 0) -> Iterator[str]:
    try:
        yield from objects.keys(bucket, prefix, limit)
    except OSError as e:
        raise PlanError(f"cannot list s3://{bucket}/{prefix}: {e}") from e


def _listed(uri: str, folder: str) -> Iterator[Listed]:
    """The entries of a list. It is opened at once, so that a wrong list is refused before the job runs."""
    try:
        if uri.endswith(manifests.INVENTORY):
            keys = manifests.inventory(open_uri(uri), open_uri)
            return ((key, key) for key in keys if _is_media_key(_bucket_and_key(key)[1]))
        entries = manifests.entries(open_uri(uri), _suffix(uri))
    except (OSError, BadInput) as e:
        raise PlanError(f"cannot read the list {uri}: {e}") from e
    return (_entry(text, folder) for text in entries)


def _entry(text: str, folder: str) -> Listed:
    if text.startswith("file://"):
        text = _local(text, PlanError)
    elif "://" in text:
        if text.encode("utf-8", "ignore").decode() != text:
            raise PlanError(f"a uri in the list is not UTF-8: {text!r}")
        return text, text
    if folder.startswith("s3://") and not text.startswith("/"):
        return f"{folder}/{text}", f"{folder}/{text}"
    path = os.path.join(folder, text)
    return _uri(path), path


def open_uri(uri: str) -> BinaryIO:
    """The input as a seekable binary file; from S3 by range or from a copy, as object_cache.py decides.

    Raises:
        FileNotFoundError, PermissionError: it is missing or forbidden.
        BadInput: a folder, a pipe, or a uri of an unknown scheme.
        StorageGone: the storage does not answer; the input is not at fault.
        OSError: any other error.
    """
    if uri.startswith("s3://"):
        bucket, key = _bucket_and_key(uri)
        return io.BufferedReader(ReadAhead(CachedObject(bucket, key)), 65536)
    path = _local(uri, BadInput)
    mode = _stat(path).st_mode
    if not stat.S_ISREG(mode):  # opening a pipe would block
        raise BadInput("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
    return open(path, "rb")


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as e:
        if e.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):  # a retry would not help
            raise BadInput(f"cannot be opened: {os.strerror(e.errno).lower()}") from e
        raise


def stamp(uri: str) -> str:
    """Size and modification time (on S3: entity tag), to see if an input has changed; raises as `open_uri`."""
    if uri.startswith("s3://"):
        about = objects.head(*_bucket_and_key(uri))
        return f"{about.size}-{about.etag}"
    status = _stat(_local(uri, BadInput))
    return f"{status.st_size}-{status.st_mtime_ns}"


def read_head(file: BinaryIO, count: int) -> tuple[bytes, int]:
    """The first `count` bytes and the size; the file is left at its start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    data = file.read(count)
    file.seek(0)
    return data, size


def read_image(file: BinaryIO) -> bytes:
    """The content of an image file; BadInput if it is larger than `MAX_IMAGE_BYTES`."""
    size = file.seek(0, io.SEEK_END)
    if size > MAX_IMAGE_BYTES:
        raise BadInput(f"too large for an image: {size / 1e6:.0f} MB; at most {MAX_IMAGE_BYTES / 1e6:.0f} are allowed")
    file.seek(0)
    return file.read()


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _local(uri: str, error: type[Exception]) -> str:
    """The path behind a name or a file:// address."""
    if "\0" in uri:
        raise error("not a path: it has a zero byte")
    if uri.startswith("file:///"):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)", uri):
        raise error(f"cannot read {scheme[0]}:// uris; copy the files to a disk or to S3")
    return uri


def _uri(path: str) -> str:
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(raw)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
