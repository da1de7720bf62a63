"""Versioned folders: each version is published whole, then an object that names the newest one is replaced.

Path: local folder -> `publish_version` -> FOLDER/VERSION/..., FOLDER/latest_version -> `newest_version` -> reader.

A run killed while it publishes leaves the old version in place, and a reader never meets files of two versions. The
version before is kept for readers that have begun with it.
"""

import re
import uuid
from pathlib import Path

from rigface.errors import BadCheckpoint
from rigface.storage.store import Store

POINTER = "latest_version"


def publish_version(store: Store, folder: str, label: str, local: Path) -> None:
    """Publish the files below a local folder as the newest version of `folder` (a name), and remove older ones.

    Its name begins with `label`. A suffix makes it unique, as a resumed run may publish the same step again.
    """
    version = f"{label}-{uuid.uuid4().hex[:8]}"
    try:
        previous = store.read(f"{folder}/{POINTER}").decode()
    except FileNotFoundError:
        previous = version
    for file in sorted(p for p in local.rglob("*") if p.is_file()):
        store.publish(f"{folder}/{version}/{file.relative_to(local).as_posix()}", file.read_bytes())
    store.publish(f"{folder}/{POINTER}", version.encode())
    kept = {POINTER, version, previous}
    stale = [path for path in store.paths(folder) if path.split("/")[1] not in kept]
    for path in stale:
        store.delete(path)
    for name in {path.split("/")[1] for path in stale if path.count("/") > 1}:
        store.delete_folder(f"{folder}/{name}")  # on a disk: the empty folders


def newest_version(uri: str) -> str:
    """Address of the newest version in a versioned folder, or of the folder itself; BadCheckpoint for a bad pointer."""
    try:
        name = Store(uri).read(POINTER).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return uri
    if not re.fullmatch(r"\w[\w-]*", name):
        raise BadCheckpoint(f"{uri}/{POINTER} names no version: {name[:80]!r}")
    return f"{uri.rstrip('/')}/{name}"
