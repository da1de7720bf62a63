"""Which inputs there are, and how to open one: folders, globs, lists, single files, on a disk or on S3.

Path: the words of the command line -> `find_all` -> uris -> `open_uri`, in any process on any node.

A **uri** is an absolute path, or s3://bucket/key with the key as it is, nothing escaped: both keep spaces, brackets
and every alphabet. Only a local name that is not UTF-8, which no Parquet column could hold, is written as file:// with
its bytes percent-encoded.

What counts as an input:
* a folder or an s3:// prefix: every file below it with the suffix of a picture or a video (`MEDIA`), in the order of
  names; hidden files and folders are left out. Links are followed, loops and second ways to one file are not.
* a glob (`**` too): what matches; the same suffixes only, unless the pattern itself ends in a suffix.
* a list: .txt (a uri per line), .csv or .parquet (column `uri`). Relative paths in it start at the list's own folder.
* the manifest.json of an S3 Inventory: the keys that it lists, by suffix, without asking the bucket for anything.
* anything else that is named: itself, whatever its suffix. If it cannot be read, that becomes a row.

A name that exists is never taken for a glob. The order is the order given, and a uri comes once.
Suffixes only decide what is *listed*; what a file *is* is decided by its content.
"""

from __future__ import annotations

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

_FILMS = frozenset((".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".ts"))
_MORE_FILMS = frozenset((".m2ts", ".mts", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".ogg", ".3gp", ".3g2", ".gif"))
_PICTURES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"))
_UNREADABLE = frozenset((".heic", ".heif", ".avif"))  # listed, so that they end as a row with a reason, not as nothing
MEDIA = _FILMS | _MORE_FILMS | _PICTURES | _UNREADABLE
MAX_PICTURE_BYTES = 2**30

Found = tuple[str, str]  # uri, and what makes it one input: the real path

log = logging.getLogger(__name__)


def find_all(videos: Iterable[str]) -> Iterator[str]:
    """The uris of all inputs, each once; in memory are the names of one folder or page (of a glob on a disk: all that
    match it, which are sorted), and 12 bytes per uri given out.

    Raises:
        PlanError: at once, when one of `videos` does not exist or cannot be understood; at the end, when nothing
            was found in any of them.
    """
    return _distinct(chain.from_iterable([_expand(one) for one in videos]))


def sample(uris: Iterable[str], count: int) -> tuple[list[str], int]:
    """Some of very many, and how many there are. By the hash of the name: the same question has the same sample."""
    kept: list[tuple[int, str]] = []  # a heap whose first has the largest hash
    total = 0
    for uri in uris:
        total += 1
        mark = int.from_bytes(hashlib.sha256(os.fsencode(uri)).digest())
        (heapq.heappush if len(kept) < count else heapq.heappushpop)(kept, (-mark, uri))
    return [uri for _, uri in sorted(kept, reverse=True)], total


def _distinct(found: Iterable[Found]) -> Iterator[str]:
    seen = CompactSet()
    for uri, real in found:
        if seen.add(os.fsencode(real)):
            yield uri
    if not len(seen):
        raise PlanError("no input found: no file has the suffix of a video or a picture; name a file to take it anyway")


def _expand(named: str) -> Iterator[Found]:
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


def _matched(paths: list[str], by_suffix: bool) -> Iterator[Found]:
    walked: set[str] = set()
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, walked)
        elif not by_suffix or _suffix(path) in MEDIA:
            yield _uri(path), os.path.realpath(path)


def _walk(folder: str, walked: set[str]) -> Iterator[Found]:
    """Files below a folder; `walked` holds the real paths of the folders that were entered, against loops."""
    real = os.path.realpath(folder)
    if real in walked:
        return
    walked.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except PermissionError:
        log.warning("left out, may not be listed by this user: %s", folder)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, walked)
        elif _suffix(entry.name) in MEDIA and (entry.is_file() or entry.is_symlink()):  # a dangling link is a row, too
            here = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            yield _uri(entry.path), here


def _expand_s3(named: str) -> Iterator[Found]:
    bucket, key = _bucket_and_key(named)
    if not bucket:
        raise PlanError(f"want s3://bucket/prefix, got {named}")
    if key and not key.endswith("/"):
        if any(found == key for found in _keys(bucket, key, limit=1)):  # the key itself sorts before all it begins
            return _listed(named, named.rpartition("/")[0]) if manifests.is_list(key) else iter([(named, named)])
        if any(_keys(bucket, key + "/", limit=1)):
            key += "/"
    if not any(_keys(bucket, key, limit=1)):
        hint = "; globs work on disks only, on S3 name a prefix" if glob.has_magic(key) else ""
        raise PlanError(f"nothing at {named}{hint}")
    return _below(bucket, key)


def _below(bucket: str, prefix: str) -> Iterator[Found]:
    for key in _keys(bucket, prefix):
        if _is_media_key(key[len(prefix) :]):
            uri = f"s3://{bucket}/{key}"
            yield uri, uri


def _is_media_key(key: str) -> bool:
    return _suffix(key) in MEDIA and not any(part.startswith(".") for part in key.split("/"))


def _keys(bucket: str, prefix: str, limit: int = 0) -> Iterator[str]:
    try:
        yield from objects.keys(bucket, prefix, limit)
    except OSError as e:
        raise PlanError(f"cannot list s3://{bucket}/{prefix}: {e}") from e


def _listed(uri: str, folder: str) -> Iterator[Found]:
    """What a list names. Opened at once, so that a wrong one is noticed before anything runs."""
    try:
        if uri.endswith(manifests.INVENTORY):
            keys = manifests.inventory(open_uri(uri), open_uri)
            return ((one, one) for one in keys if _is_media_key(_bucket_and_key(one)[1]))
        entries = manifests.entries(open_uri(uri), _suffix(uri))
    except (OSError, BadInput) as e:
        raise PlanError(f"cannot read the list {uri}: {e}") from e
    return (_entry(text, folder) for text in entries)


def _entry(text: str, folder: str) -> Found:
    if text.startswith("file://"):
        text = _local(text, PlanError)
    elif "://" in text:
        if text.encode("utf-8", "ignore").decode() != text:
            raise PlanError(f"an address in the list is not UTF-8: {text!r}")
        return text, text
    if folder.startswith("s3://") and not text.startswith("/"):
        return f"{folder}/{text}", f"{folder}/{text}"
    path = os.path.join(folder, text)
    return _uri(path), path


def open_uri(uri: str) -> BinaryIO:
    """The input as a seekable binary file; from S3 by range or from a copy, as `nearby` decides.

    Raises:
        FileNotFoundError, PermissionError: as their names say.
        BadInput: a folder, a pipe, or an address of a kind we do not read.
        StorageGone: the storage is away; no input is to blame.
        OSError: anything else.
    """
    if uri.startswith("s3://"):
        bucket, key = _bucket_and_key(uri)
        return io.BufferedReader(ReadAhead(CachedObject(bucket, key)), 65536)
    path = _local(uri, BadInput)
    mode = _stat(path).st_mode
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise BadInput("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
    return open(path, "rb")


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as e:
        if e.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):  # no second try will help
            raise BadInput(f"cannot be opened: {os.strerror(e.errno).lower()}") from e
        raise


def stamp(uri: str) -> str:
    """Size and time of change (on S3: entity tag), to see cheaply whether an input is still the same.

    Raises:
        FileNotFoundError, PermissionError, BadInput, OSError: as `open_uri`.
    """
    if uri.startswith("s3://"):
        about = objects.head(*_bucket_and_key(uri))
        return f"{about.size}-{about.etag}"
    found = _stat(_local(uri, BadInput))
    return f"{found.st_size}-{found.st_mtime_ns}"


def head(file: BinaryIO, count: int) -> tuple[bytes, int]:
    """The first `count` bytes and the size; the file is left at its start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    data = file.read(count)
    file.seek(0)
    return data, size


def read(file: BinaryIO) -> bytes:
    """All of a file that is to be a picture.

    Raises:
        BadInput: it is larger than any picture we would decode.
    """
    size = file.seek(0, io.SEEK_END)
    if size > MAX_PICTURE_BYTES:
        raise BadInput(
            f"too large for a picture: {size / 1e6:.0f} MB, more than the {MAX_PICTURE_BYTES / 1e6:.0f} allowed"
        )
    file.seek(0)
    return file.read()


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _local(uri: str, error: type[Exception]) -> str:
    """The path behind a name or a file:// address."""
    if "\0" in uri:
        raise error("not a path: it holds a zero byte")
    if uri.startswith("file:///"):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)", uri):
        raise error(f"cannot read {scheme[0]}:// addresses; copy the files to a disk or to S3")
    return uri


def _uri(path: str) -> str:
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(raw)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
