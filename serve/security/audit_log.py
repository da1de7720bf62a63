"""Who edited what, when: one JSON line per edit, only ever added to. Hashes and numbers, never pictures.

Path: `edits.py`, `job_clip.py` -> `Audit` -> a file; `rigface serve audit check` -> `check`.

Where several machines write, the place is a folder, which may be shared: each host has a file of its own in it, and the replicas of
one host take turns at that.

Each line carries the hash of the line before it, so that a line that was taken out, put in or changed later is noticed by `check`,
as the lines after it no longer fit. What that does not show: that the end was cut off, or that all of a file was written anew by
somebody who may write there. Against both, keep the hash of the last line elsewhere from time to time, and have `check` find it.
"""

from __future__ import annotations

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
LOOKS = (2**14, 2**20)  # bytes of a file's end in which its last line is looked for; one has some hundreds


class Audit:
    """An append-only log.

    Args:
        path: a file, or a folder: one that is there, or a name that ends with a slash.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = file_of(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, entry: dict[str, Any]) -> None:
        """Add a line; it is on disk when this returns."""
        with open(self._path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the replicas of one machine share a file
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            before, ended = _last(file)
            line = json.dumps({"time": now, **entry, "before": before}, sort_keys=True) + "\n"
            file.write((b"" if ended else b"\n") + line.encode())
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True)
class Checked:
    """What `check` found: how many lines are as they were written, when the last was, and its hash; and how many are no lines of
    the log, such as half a one of a machine that failed; and whether a line has the hash that was looked for."""

    lines: int
    last: str
    hash: str
    broken: int
    holds: bool


def check(path: str | os.PathLike[str], holds: str = "") -> Checked:
    """Whether a file is as it was written.

    Args:
        holds: a hash to look for: of a line that was the last at an earlier time.

    Raises:
        ValueError: a line was changed, put in or removed; the message says which comes after it.
    """
    before, last, lines, broken, found = START, "", 0, 0, False
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            row = _row(line)
            if row is None:
                broken += 1
                continue
            if row["before"] != before:
                raise ValueError(f"{path}: what comes before line {number} is not what was written")
            before, last, lines = hashlib.sha256(line.rstrip(b"\n")).hexdigest(), row["time"], lines + 1
            found = found or before == holds
    return Checked(lines, last, before, broken, found)


def file_of(path: str | os.PathLike[str]) -> Path:
    """The file that this host writes."""
    place = Path(path)
    if not os.fspath(path).endswith("/") and not place.is_dir():
        return place
    return place / f"{re.sub(r'[^A-Za-z0-9._-]', '_', socket.gethostname())}.jsonl"


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The file, or all of a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    place = Path(path)
    found = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"{place}: there is no audit log")
    return found


def _last(file: Any) -> tuple[str, bool]:
    """The hash of the last line, and whether the file ends with a line's end: a machine that failed may leave half a one."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    for size in (*LOOKS, end):
        file.seek(max(0, end - size))
        tail = file.read()
        last = next((line for line in reversed(tail.split(b"\n")) if _row(line) is not None), None)
        if last is not None:
            return hashlib.sha256(last).hexdigest(), tail.endswith(b"\n")
    return START, tail[-1:] in (b"", b"\n")


def _row(line: bytes) -> dict[str, Any] | None:
    """A line of the log; None for anything else."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"before", "time"} <= row.keys() else None
