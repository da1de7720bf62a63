"""Versions, commit and host of a run, as recorded beside its output."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path

PACKAGES = (
    "rigface",
    "ray",
    "torch",
    "mediapipe",
    "av",
    "opencv-python",
    "numpy",
    "pyarrow",
    "dlib-bin",
    "insightface",
)


def versions() -> dict[str, str]:
    """Versions of the packages that decide what comes out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """The commit of this checkout, with `+` where files were changed; in an image, what it was built of; else empty."""
    where = Path(__file__).parent
    command = ["git", "-C", str(where), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("RIGFACE_COMMIT", "")
