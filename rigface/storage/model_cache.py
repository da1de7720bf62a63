"""Local cache of S3 objects: its folder, its size limit, and copies of whole folders of weights.

Path: `--checkpoint s3://bucket/runs/mine/model` -> `model/checkpoint_folder.py` -> `fetched` -> a folder of this disk.

Copies lie in a folder of mode 700 per user, in RIGFACE_CACHE (default: the temporary folder): another user who could
write there could choose the weights. Videos take up to RIGFACE_CACHE_GB (8) (`pipelines/inputs/object_cache.py`),
folders of weights as much again, in `models/`; the least recently used go first. A copy is named by the address and the
entity tags of its files, so a changed model is another copy; one that is replaced while it is fetched is fetched again.
Only files of known names are fetched, so too short an address does not fetch a bucket.
"""

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
from rigface.storage.store import Store, local_path
from rigface.storage.versions import newest_version

NETWORKS = ("unet", "unet_id", "unet_denoise", "controlnet", "t2iadapter", "vae", "text_encoder", "tokenizer")
AT_THE_TOP = (
    *("config.json", "default_text.safetensors", "model.safetensors"),
    *("ip-adapter.safetensors", "learned_embeds.safetensors", "prompt.safetensors"),  # of recipes
    *("adapter_config.json", "adapter_model.safetensors"),
)
WEIGHTS = "diffusion_pytorch_model"
SAFE, PICKLED = ".safetensors", ".bin"
PIECE_BYTES = 16 * 2**20
FETCHERS = 4  # threads
TRIES = 3
IN_USE_S = 3600.0  # a folder used more recently is never removed: its reader opens files one by one

log = logging.getLogger(__name__)


def folder() -> Path:
    """Folder of the copies."""
    return Path(os.environ.get("RIGFACE_CACHE") or tempfile.gettempdir()) / f"rigface-cache-{os.getuid()}"


def is_ours(place: Path) -> bool:
    """True if only this user can write to a folder, which is made if it is missing."""
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
    try:
        about = os.lstat(place)
    except OSError:  # not writable
        return False
    if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077:
        return True
    _warn(f"{place} is not a folder that only this user may enter (mode 700): no copies are kept there. Remove it")
    return False


@functools.cache
def _warn(text: str) -> None:
    """Log once per process, not once per copy."""
    log.warning(text)


def room() -> int:
    """Maximum bytes of all copies of a kind."""
    return int(float(os.environ.get("RIGFACE_CACHE_GB") or 8) * 1e9)


def fetched(uri: str) -> Path:
    """Local copy of a folder of weights on S3 (a checkpoint, an adapter, Stable Diffusion, an autoencoder), the newest.

    MissingAsset if there is no such folder, UnsafeFile if a key would be written outside the copy, PlanError if it is
    larger than copies may be, changes all the time, or other users may write to the cache, StorageGone if the storage
    is away or this disk is full.
    """
    if not is_ours(folder()):
        raise PlanError(
            f"{uri}: {folder()} is not a folder that only this user may enter; remove it or set RIGFACE_CACHE"
        )
    for _ in range(TRIES):
        with contextlib.suppress(_Replaced):
            store = Store(newest_version(uri))
            files = _files(store)
            name = json.dumps([store.uri, _tags(files)])
            place = folder() / "models" / hashlib.sha256(name.encode()).hexdigest()[:40]
            if not place.is_dir():
                _fetch(store, files, place)
            os.utime(place)  # eviction goes by the time of the last use
            return place
    raise PlanError(f"{uri} was replaced {TRIES} times while it was fetched; try again when training rests")


class _Replaced(Exception):
    """The folder changed while it was fetched."""


def _files(store: Store) -> dict[str, objects.About]:
    """Metadata of the files of a folder of weights, by path below the root."""
    paths = sorted(path for path in _listed(store) if _is_weights(path))
    for path in paths:
        local_path(Path("/"), path, store.uri)
    safe = {path.rpartition("/")[0] for path in paths if path.endswith(SAFE)}
    paths = [p for p in paths if not (p.endswith(PICKLED) and p.rpartition("/")[0] in safe)]
    if not paths:
        raise MissingAsset(
            f"{store.uri}: no folder of weights: want config.json, unet_id/ and unet_denoise/, or unet/ and vae/, "
            "or an adapter's adapter_config.json"
        )
    try:
        with ThreadPoolExecutor(FETCHERS) as pool:
            return dict(zip(paths, pool.map(lambda path: objects.head(*store.bucket_and_key(path)), paths)))
    except FileNotFoundError as e:
        raise _Replaced from e


def _listed(store: Store) -> list[str]:
    """Paths at the top and in the folders of networks; other folders are not listed."""
    bucket, root = store.bucket_and_key("")
    keys: list[str] = []
    try:
        subfolders: set[str] = set()
        for names, folders in objects.pages(bucket, root, folders=True):
            keys += names
            subfolders.update(folders)
        for network in sorted(subfolders & {f"{root}{name}/" for name in NETWORKS}):
            keys += objects.keys(bucket, network)
    except FileNotFoundError as e:
        raise MissingAsset(f"{store.uri}: there is no such bucket") from e
    return [key[len(root) :] for key in keys]


def _is_weights(path: str) -> bool:
    network, _, rest = path.partition("/")
    if not rest:
        return path in AT_THE_TOP or (path.startswith(WEIGHTS) and path.endswith((SAFE, PICKLED)))
    return path.endswith((".json", SAFE, PICKLED)) or (network == "tokenizer" and not path.endswith("/"))


def _fetch(store: Store, files: dict[str, objects.About], place: Path) -> None:
    """Copy all files, or wait for another process that does."""
    size = sum(about.size for about in files.values())
    if size > room():
        raise PlanError(
            f"{store.uri} has {size / 1e9:.1f} GB of weights, and copies may take {room() / 1e9:g} GB: "
            "set RIGFACE_CACHE_GB higher"
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place.with_suffix(".lock"), "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            if place.is_dir():
                return
            _evict(place.parent, room() - size)
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetching-") as temporary:
                copy = Path(temporary) / "copy"
                with ThreadPoolExecutor(FETCHERS) as pool:
                    for _ in pool.map(lambda path: _copy(store, path, files[path], copy), files):
                        pass
                if _tags(_files(store)) != _tags(files):
                    raise _Replaced
                os.rename(copy, place)
    except OSError as e:
        if e.errno is None:  # an error of the storage, not of the disk
            raise
        raise StorageGone(
            f"{place.parent}: {(e.strerror or 'cannot be written').lower()}; {store.uri} needs {size / 1e9:.1f} GB "
            "there. Make room, or name another folder in RIGFACE_CACHE"
        ) from e


def _tags(files: dict[str, objects.About]) -> dict[str, str]:
    return {path: about.etag for path, about in files.items()}


def _copy(store: Store, path: str, about: objects.About, folder: Path) -> None:
    target = local_path(folder, path, store.uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    bucket, key = store.bucket_and_key(path)
    with open(target, "wb") as out:
        for at in range(0, about.size, PIECE_BYTES):
            try:
                data, _ = objects.get(bucket, key, at, PIECE_BYTES, about.etag)
            except (FileExistsError, FileNotFoundError) as e:
                raise _Replaced from e
            out.write(data)


def _evict(models: Path, max_bytes: int) -> None:
    """Remove the least recently used folders until `max_bytes` are left, and temporary ones of killed processes."""
    copies = []
    for place in models.iterdir():
        with contextlib.suppress(OSError):  # another process may remove them, too
            if place.is_dir():
                copies.append((place.stat().st_mtime, place, sum(f.stat().st_size for f in place.rglob("*"))))
    left = sum(size for _, _, size in copies)
    for used, place, size in sorted(copies):
        if time.time() - used < IN_USE_S:
            return
        if left > max_bytes or place.name.startswith("."):
            shutil.rmtree(place, ignore_errors=True)
            left -= size
