"""Append-only audit log: one JSON line per edit, with hashes and numbers, never images.

Path: `serve.inference.edit_service`, `serve.jobs.video` -> `AuditLog` -> a file; `rigface serve audit check` ->
`check`.

Several machines write to a folder, which may be shared: each host has a file of its own in it, and the replicas of a
host lock it.

Each line carries the hash of the line before it, so `check` finds lines that were removed, inserted or changed. It
does not find a truncated end, or a file rewritten as a whole. Against both, store the hash of the last line
elsewhere, and have `check` look for it.
"""

import datetime
import fcntl
import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START = "0" * 64
TAIL_BYTES = (2**14, 2**20)  # of a file, searched for its last line; a line has some hundreds


class AuditLog:
    """An append-only log: a file; or a folder, if it exists or the path ends with a slash."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = file_of(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, entry: dict[str, Any]) -> None:
        """Append a line; it is on disk when this returns."""
        with open(self._path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the replicas of one machine share a file
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            before, has_newline = _last(file)
            line = json.dumps({"time": now, **entry, "before": before}, sort_keys=True) + "\n"
            file.write((b"" if has_newline else b"\n") + line.encode())
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True)
class AuditCheck:
    """Result of `check`."""

    lines: int  # intact ones
    last: str  # time of the last
    hash: str  # of the last
    broken: int  # lines that are no entries, such as a partial one after a crash
    holds: bool  # a line has the hash that was looked for


def check(path: str | os.PathLike[str], holds: str = "") -> AuditCheck:
    """Verify the hash chain of a file, and look for a line that had the hash `holds` at an earlier time.

    ValueError names the line after one that was changed, inserted or removed.
    """
    before, last, lines, broken, found = START, "", 0, 0, False
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            row = _row(line)
            if row is None:
                broken += 1
                continue
            if row["before"] != before:
                raise ValueError(f"{path}: the lines before line {number} were changed")
            before, last, lines = hashlib.sha256(line.rstrip(b"\n")).hexdigest(), row["time"], lines + 1
            found = found or before == holds
    return AuditCheck(lines, last, before, broken, found)


def file_of(path: str | os.PathLike[str]) -> Path:
    """The file of this host."""
    place = Path(path)
    if not os.fspath(path).endswith("/") and not place.is_dir():
        return place
    return place / f"{re.sub(r'[^A-Za-z0-9._-]', '_', socket.gethostname())}.jsonl"


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The file, or all files of a folder; FileNotFoundError if there are none."""
    place = Path(path)
    found = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"{place}: there is no audit log")
    return found


def _last(file: Any) -> tuple[str, bool]:
    """The hash of the last line, and True if the file ends with a newline; after a crash it may not."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    for size in (*TAIL_BYTES, end):
        file.seek(max(0, end - size))
        tail = file.read()
        last = next((line for line in reversed(tail.split(b"\n")) if _row(line) is not None), None)
        if last is not None:
            return hashlib.sha256(last).hexdigest(), tail.endswith(b"\n")
    return START, tail[-1:] in (b"", b"\n")


def _row(line: bytes) -> dict[str, Any] | None:
    """An entry of the log; None for anything else."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"before", "time"} <= row.keys() else None
