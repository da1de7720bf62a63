"""Run information: `rigface.json` beside an output, with its settings, package versions and git commit.

Path: extract, pair, encode, train, evaluate, judge -> `write` -> OUT/rigface.json -> `load` -> the next run, the pages.
"""

import importlib.metadata
import json
import os
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rigface.errors import PlanError
from rigface.storage.store import Store

RUN_INFO = "rigface.json"
MAX_RUNS = 20  # latest runs that an output lists
ROOT = Path(__file__).resolve().parents[1]
# Command -> a field that tells its run information: the first that is there.
FIELDS = {
    "convert": "converted", "export": "exported", "refine": "refine", "extract": "detector", "pair": "faces",
    "encode": "autoencoder", "autoencoder": "patches", "evaluate": "models", "judge": "judged", "train": "runs",
}  # fmt: skip
PACKAGES = ("ray", "torch", "mediapipe", "av", "opencv-python", "numpy", "pyarrow", "dlib-bin", "insightface")


def load(store: Store) -> dict[str, Any] | None:
    """The run information of an output, or None if it has none; PlanError if it is not JSON."""
    try:
        return json.loads(store.read(RUN_INFO))
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise PlanError(f"{store.uri}/{RUN_INFO} is damaged ({e}); restore it, or choose another OUT") from e


def load_own(store: Store, command: str, folders: Sequence[str]) -> dict[str, Any] | None:
    """The run information of an output of this command, or None if the folder has none of its `folders` yet.

    PlanError if the folder is the output of another command, or holds other data.
    """
    info = load(store)
    if info is None:
        if foreign := [folder for folder in folders if any(store.paths(folder))]:
            raise PlanError(
                f"{store.uri} has {' and '.join(foreign)} but no {RUN_INFO}: it is not an output of `rigface "
                f"{command}`, and nothing in it was changed. Choose another OUT."
            )
    elif (maker := next((name for name, field in FIELDS.items() if field in info), "another program")) != command:
        raise PlanError(
            f"{store.uri} is an output of `{maker}`, not of `{command}`, and nothing in it was changed. "
            "Choose another OUT."
        )
    return info


def write(store: Store, info: dict[str, Any]) -> None:
    """Publish the run information of an output: values that JSON can hold."""
    store.publish(RUN_INFO, json.dumps(info, indent=1).encode())


def software() -> dict[str, Any]:
    """The fields `commit` and `packages` of the run information."""
    return {"commit": git_commit(), "packages": versions()}


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide an output."""
    installed = {}
    for name in ("rigface", *PACKAGES):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def git_commit() -> str:
    """The git commit of this project's checkout, with `+` if files were changed.

    Without a checkout it is RIGFACE_COMMIT (set in images), or empty. An installed package may lie inside the
    repository of another project: that commit is not returned.
    """
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text()).get("project", {})
        if ROOT.samefile(_git("rev-parse", "--show-toplevel")) and project.get("name") == "rigface":
            return _git("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        pass
    return os.environ.get("RIGFACE_COMMIT", "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
