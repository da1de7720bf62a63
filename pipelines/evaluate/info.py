"""Run information of an evaluation: settings, models, commit, date."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rigface
from pipelines import run_info
from pipelines.evaluate.config import EvaluateConfig
from rigface.edits import PREVIEW
from rigface.model.checkpoint_folder import folder_of

HASHED_BYTES = 2**20  # of the beginning and the end of each file
UNREAD = {"README.md", "model_index.json", "scheduler"}  # of a checkpoint's folder: written for others
# Code that makes edits, relative to the package: where it changes, every model is measured anew.
EDITING = ("editor.py", "conditions.py", "face/preview", "face/controls", "face/rendering", "refiner")


@dataclass(frozen=True)
class EvaluatedModel:
    """A model of an evaluation: `preview` or a checkpoint, and a hash of its content."""

    place: str
    fingerprint: str


@dataclass(frozen=True)
class EvaluationInfo:
    """The run information of an evaluation, as in OUT/rigface.json."""

    settings: dict[str, Any]
    models: dict[str, EvaluatedModel]
    code: str  # hash of the code that makes edits
    size: int  # px
    commit: str
    packages: dict[str, str]
    date: str

    @staticmethod
    def of(config: EvaluateConfig, models: Mapping[str, str]) -> EvaluationInfo:
        """The run information of a run that begins now."""
        settings = {name: value for name, value in asdict(config).items() if name != "dry_run"}
        evaluated = {name: EvaluatedModel(place, fingerprint(place)) for name, place in models.items()}
        date = time.strftime("%Y-%m-%d", time.gmtime())
        return EvaluationInfo(
            settings, evaluated, code_fingerprint(), config.size, run_info.git_commit(), run_info.versions(), date
        )


def code_fingerprint() -> str:
    """A hash of the installed code that makes edits."""
    digest, package = hashlib.sha256(), Path(rigface.__file__).parent
    for name in EDITING:
        place = package / name
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def fingerprint(model: str) -> str:
    """A hash of a checkpoint: of the names, sizes, first and last MiB of the files that are read, not of its card."""
    if model in (PREVIEW, "tiny"):
        return model
    digest = hashlib.sha256()
    folder = folder_of(model)
    # Adopted weights are links to folders, which `rglob` does not enter.
    files = [Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names]
    for file in sorted(file for file in files if file.relative_to(folder).parts[0] not in UNREAD):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)}\0{size}\0".encode())
        with file.open("rb") as f:
            digest.update(f.read(HASHED_BYTES))
            f.seek(max(0, size - HASHED_BYTES))
            digest.update(f.read())
    return digest.hexdigest()[:16]
