"""Who edited what, when: one JSON line per edit, only ever added to. Hashes and numbers, never pictures.

Path: `edits.py` -> `Audit` -> a file. Each line carries the hash of the line before it, so that a line that was taken out or
changed later is noticed by `check`. Doors write to files of their own: give each replica its own path, or use one door.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

START = "0" * 64


class Audit:
    """An append-only log."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, entry: dict[str, Any]) -> None:
        """Add a line; it is on disk when this returns."""
        with open(self._path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # doors of one machine may share a file
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            line = json.dumps({"time": now, **entry, "before": _last(file)}, sort_keys=True) + "\n"
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def check(path: str | os.PathLike[str]) -> int:
    """How many lines are as they were written.

    Raises:
        ValueError: a line was changed or removed; the message says which comes after it.
    """
    before = START
    lines = Path(path).read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        if json.loads(line)["before"] != before:
            raise ValueError(f"{path}: what comes before line {number} is not what was written")
        before = hashlib.sha256(line).hexdigest()
    return len(lines)


def _last(file: Any) -> str:
    """The hash of the last line."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return START
    file.seek(max(0, end - 65536))
    return hashlib.sha256(file.read().splitlines()[-1]).hexdigest()
