"""`rigface assets list` and `check`: what is on this machine, and how to get the rest.

Path: `rigface.assets.ASSETS` -> statuses -> tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.assets.recognition import look_at
from rigface.assets import ASSETS, find
from rigface.errors import MissingAsset

_BESIDE_FLAME = ("landmark_embedding.npy", "head_template.obj")  # without them the model cannot be fitted or drawn


@dataclass(frozen=True)
class Status:
    """An asset on this machine."""

    name: str
    path: Path | None  # None: it is not here
    problem: str = ""  # what is wrong or missing, and what to do; "" if nothing


def statuses(names: Iterable[str], folder: str | None = None) -> list[Status]:
    """The state of assets: found and what their name says, found and damaged, or missing.

    Args:
        folder: an assets folder to search first.
    """
    return [_status(name, folder) for name in names]


def _status(name: str, folder: str | None) -> Status:
    asset = ASSETS[name]
    try:
        path = find(name, folder)
    except MissingAsset:
        return Status(name, None, f"missing. {asset.how[0].upper()}{asset.how[1:]}")
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
    problems = [f"{file.name}: {reason}" for file in files if (reason := look_at(file, name))]
    if name == "flame":
        problems += [
            f"{beside} is not beside it; {asset.how}" for beside in _BESIDE_FLAME if not (path / beside).is_file()
        ]
    return Status(name, path, "; ".join(problems))
