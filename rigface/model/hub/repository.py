"""Models of the Hugging Face Hub: found in this machine's cache, fetched or uploaded when asked to.

Path: `--checkpoint org/name` -> `found` -> a folder of the cache; `rigface model push FOLDER org/name` -> `push`.

Nothing is fetched unasked: a hub id is looked up in the cache of `huggingface_hub`, and downloaded by `rigface model
fetch`, or where RIGFACE_HUB=1 is set. Of a repository only safetensors, JSON and text are taken. The token is that of
the environment (HF_TOKEN), never one that another program stored.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rigface.errors import MissingAsset, PlanError, StorageGone, UnsafeFile

SWITCH = "RIGFACE_HUB"
TAKEN = ["*.safetensors", "*.json", "*.txt", "*.md"]  # of a repository
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")


def is_id(name: str) -> bool:
    """True for the form of a hub id, `org/name` or `org/name@revision`, if there is no such path here."""
    return _ID.fullmatch(name) is not None and not Path(name).exists()


def found(name: str, fetch: bool | None = None) -> Path:
    """Local folder of a hub id.

    Args:
        fetch: download what the cache lacks; None: if RIGFACE_HUB=1 is set.

    Raises:
        MissingAsset: it is not in the cache and is not to be fetched, or there is no such repository.
        StorageGone: the hub does not answer.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    fetch = os.environ.get(SWITCH, "") not in ("", "0") if fetch is None else fetch
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=TAKEN,
                local_files_only=not fetch,
                token=os.environ.get("HF_TOKEN") or False,
            )
        )
    except RepositoryNotFoundError as error:
        raise MissingAsset(f"{name}: the hub has no such repository, or HF_TOKEN may not read it") from error
    except Exception as error:  # the client's own and those of its connections have no common base
        if fetch:
            raise StorageGone(f"{name}: the hub does not give it: {error}") from error
        raise MissingAsset(
            f"{name} is no folder here, and the hub's cache on this machine has no whole model of this name. `rigface "
            f"model fetch {name}` downloads it; with {SWITCH}=1 commands do so by themselves"
        ) from error


def refuse_pickles(folder: Path) -> None:
    """UnsafeFile, with their names, if a folder of weights holds pickles."""
    if found := [str(p.relative_to(folder)) for pattern in PICKLES for p in sorted(folder.rglob(pattern))]:
        raise UnsafeFile(f"{folder} holds pickles, which execute code when read: {', '.join(found)}. Want safetensors")


def push(folder: Path, repository: str, private: bool = True, pull_request: bool = False, message: str = "") -> str:
    """Upload a folder of weights to a repository, which is made if there is none; returns its address.

    Raises:
        PlanError: HF_TOKEN is not set, or the name is none.
        MissingAsset: the folder is not there. UnsafeFile: it holds pickles.
        StorageGone: the hub refuses it, or does not answer.
    """
    from huggingface_hub import HfApi

    token = os.environ.get("HF_TOKEN")
    if not token:
        raise PlanError("HF_TOKEN is not set: an upload takes a token of yours that may write, from the environment")
    if _ID.fullmatch(repository) is None or "@" in repository:
        raise PlanError(f"{repository!r} is no name of a repository: want org/name")
    if not folder.is_dir():
        raise MissingAsset(f"{folder} is no folder")
    refuse_pickles(folder)
    api = HfApi(token=token)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message or "Upload a RigFace model",
            create_pr=pull_request,
        )
    except Exception as error:  # as above
        raise StorageGone(f"{repository}: the hub does not take it: {error}") from error
    return str(address)
