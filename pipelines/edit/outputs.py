"""Outputs of the editing jobs: refuse an impossible one before work begins."""

import os
from pathlib import Path

from rigface.errors import PlanError

MAX_NAME = 255  # bytes of a file's name, on all usual disks


def check_writable(out: Path) -> None:
    """Refuse, by a PlanError, a file that cannot be made: a folder, too long a name, no writable folder."""
    for part in out.parts:
        if len(os.fsencode(part)) > MAX_NAME:
            raise PlanError(f"{out}: a name has {len(os.fsencode(part))} bytes; choose one of at most {MAX_NAME}")
    if out.is_dir():
        raise PlanError(f"{out} is a folder; give the name of a file in it")
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise PlanError(f"{out}: {folder} is a file, not a folder; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PlanError(f"{out}: {folder} cannot be written to; choose another place")
