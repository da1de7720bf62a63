"""Copies on this machine of what lies on S3: where they are, how much they may take, and whole folders of weights.

Path: `--checkpoint s3://bucket/runs/mine/model` -> `model/checkpoint.folder_of` -> `fetched` -> a folder of this disk.

Copies lie in a folder of mode 700 per user, in RIGFACE_CACHE (default: the temporary folder): whoever could write there
could choose what is painted with. Videos have RIGFACE_CACHE_GB (8) of it (`pipelines/inputs/object_cache.py`), folders
of weights as much again, in `models/`; those longest unused go first. A folder is named by its address and the entity
tags of its files, so a model that was trained on is another folder; one that is being replaced while it is fetched is
fetched again. Only what a folder of weights is made of is fetched, so a name that is too short fetches no bucket.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rigface.errors import MissingAsset, PlanError, StorageGone
from rigface.storage import objects
from rigface.storage.store import Store

NETWORKS = ("unet", "unet_id", "unet_denoise", "vae", "text_encoder", "tokenizer")
AT_THE_TOP = ("config.json", "default_text.safetensors")
WEIGHTS = "diffusion_pytorch_model"
SAFE, PICKLED = ".safetensors", ".bin"
AT_ONCE = 16 * 2**20  # bytes of a file in memory
FETCHERS = 4  # threads
TRIES = 3
IN_USE_S = 3600.0  # a folder used since is never removed: its reader opens files one by one

log = logging.getLogger(__name__)


def folder() -> Path:
    """Where copies lie."""
    return Path(os.environ.get("RIGFACE_CACHE") or tempfile.gettempdir()) / f"rigface-cache-{os.getuid()}"


def is_ours(place: Path) -> bool:
    """Whether only this user can put anything there; made where it is missing."""
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
    try:
        about = os.lstat(place)
    except OSError:  # a disk that takes nothing
        return False
    if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077:
        return True
    _warn(f"{place} is not a folder that only this user may enter (mode 700): no copies are kept there. Remove it")
    return False


@functools.cache
def _warn(text: str) -> None:
    """Say it once per process, not once per copy."""
    log.warning(text)


def room() -> int:
    """Bytes that all copies of a kind may take."""
    return int(float(os.environ.get("RIGFACE_CACHE_GB") or 8) * 1e9)


def fetched(uri: str) -> Path:
    """A folder of weights on S3, as a folder of this machine.

    Args:
        uri: s3://bucket/prefix of a checkpoint, a Stable Diffusion folder or an autoencoder.

    Raises:
        MissingAsset: there is no such folder of weights.
        PlanError: it is larger than copies may be, or changes all the time, or others may write where copies lie.
        StorageGone: the storage is away, or this disk is full.
    """
    store = Store(uri)
    if not is_ours(folder()):
        raise PlanError(
            f"{store.uri}: {folder()} is not a folder that only this user may enter; remove it or set RIGFACE_CACHE"
        )
    for _ in range(TRIES):
        with contextlib.suppress(_Replaced):
            files = _files(store)
            name = json.dumps([store.uri, _tags(files)])
            place = folder() / "models" / hashlib.sha256(name.encode()).hexdigest()[:40]
            if not place.is_dir():
                _fetch(store, files, place)
            os.utime(place)  # used now; eviction goes by it
            return place
    raise PlanError(f"{store.uri} was replaced {TRIES} times while it was fetched; try again when training rests")


class _Replaced(Exception):
    """Somebody is writing to the folder."""


def _files(store: Store) -> dict[str, objects.About]:
    """What a folder of weights is made of: path below the root -> what the storage says of it."""
    paths = sorted(path for path in _listed(store) if _is_wanted(path))
    safe = {path.rpartition("/")[0] for path in paths if path.endswith(SAFE)}
    paths = [p for p in paths if not (p.endswith(PICKLED) and p.rpartition("/")[0] in safe)]
    if not paths:
        raise MissingAsset(
            f"{store.uri}: no folder of weights: want config.json, unet_id/ and unet_denoise/, or unet/ and vae/"
        )
    try:
        with ThreadPoolExecutor(FETCHERS) as pool:
            return dict(zip(paths, pool.map(lambda path: objects.head(*store.bucket_and_key(path)), paths)))
    except FileNotFoundError as e:
        raise _Replaced from e


def _listed(store: Store) -> list[str]:
    """Paths at the top and in the folders of networks; nothing below a folder that is none of those."""
    bucket, key = store.bucket_and_key("")
    found: list[str] = []
    try:
        below: set[str] = set()
        for names, folders in objects.pages(bucket, key, folders=True):
            found += names
            below.update(folders)
        for network in sorted(below & {f"{key}{name}/" for name in NETWORKS}):
            found += objects.keys(bucket, network)
    except FileNotFoundError as e:
        raise MissingAsset(f"{store.uri}: there is no such bucket") from e
    return [name[len(key) :] for name in found]


def _is_wanted(path: str) -> bool:
    network, _, rest = path.partition("/")
    if not rest:
        return path in AT_THE_TOP or (path.startswith(WEIGHTS) and path.endswith((SAFE, PICKLED)))
    return network == "tokenizer" or path.endswith((".json", SAFE, PICKLED))


def _fetch(store: Store, files: dict[str, objects.About], place: Path) -> None:
    """Copy all of it. Another process that is at it is waited for."""
    size = sum(about.size for about in files.values())
    if size > room():
        raise PlanError(
            f"{store.uri} has {size / 1e9:.1f} GB of weights, and copies may take {room() / 1e9:g} GB: set "
            "RIGFACE_CACHE_GB higher"
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place.with_suffix(".lock"), "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            if place.is_dir():
                return
            _evict(place.parent, room() - size)
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetching-") as aside:
                whole = Path(aside) / "whole"
                with ThreadPoolExecutor(FETCHERS) as pool:
                    for _ in pool.map(lambda path: _copy(store, path, files[path], whole / path), files):
                        pass
                if _tags(_files(store)) != _tags(files):
                    raise _Replaced
                os.rename(whole, place)
    except OSError as e:
        if e.errno is None:  # the storage's, not the disk's
            raise
        raise StorageGone(
            f"{place.parent}: {(e.strerror or 'cannot be written').lower()}; {store.uri} needs {size / 1e9:.1f} GB "
            "there. "
            "Make room, or name another folder in RIGFACE_CACHE"
        ) from e


def _tags(files: dict[str, objects.About]) -> dict[str, str]:
    return {path: about.etag for path, about in files.items()}


def _copy(store: Store, path: str, about: objects.About, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    bucket, key = store.bucket_and_key(path)
    with open(target, "wb") as out:
        for at in range(0, about.size, AT_ONCE):
            try:
                data, _ = objects.get(bucket, key, at, AT_ONCE, about.etag)
            except (FileExistsError, FileNotFoundError) as e:
                raise _Replaced from e
            out.write(data)


def _evict(models: Path, most: int) -> None:
    """Remove the folders longest unused until at most so many bytes are left, and what killed processes left aside."""
    found = []
    for place in models.iterdir():
        with contextlib.suppress(OSError):  # another process removes, too
            if place.is_dir():
                found.append((place.stat().st_mtime, place, sum(f.stat().st_size for f in place.rglob("*"))))
    left = sum(size for _, _, size in found)
    for used, place, size in sorted(found):
        if time.time() - used < IN_USE_S:
            return
        if left > most or place.name.startswith("."):
            shutil.rmtree(place, ignore_errors=True)
            left -= size
