"""Quarantine: after two crashed units of an input, its remaining units are skipped until `--retry-errors`.

Path: the stage `detect_faces` gives a unit up -> `add` -> the same stage, on any node, at another unit of that input
-> `verdict`.

A video of two hours is 120 units at five frames a second. If each were tried until it is given up, the video would
cost 240 crashes, or four minutes of waiting for every unit that hangs. Units that were processed before keep their
rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from pipelines.extract.plan import UnitPlan
from rigface.storage.store import INTERNAL, Store

FOLDER = f"{INTERNAL}/deaths"
MAX_CRASHED = 2  # units of one input


@dataclass(frozen=True)
class Crash:
    """The fields of a record that say how a unit crashed."""

    stage: str
    reason: str
    crash: str


class Quarantine:
    """The crashes of one dataset. One object per crashed unit, so that writers need no lock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def verdict(self, unit: UnitPlan) -> Crash | None:
        """The crash of another unit because of which this one is skipped; None: try it."""
        if unit.chunks <= MAX_CRASHED:
            return None
        others = [p for p in self._store.paths(_folder(unit.uri), ".json") if unit.unit_id not in p]
        if len(others) < MAX_CRASHED:
            return None
        return Crash(**json.loads(self._store.read(min(others))))

    def add(self, unit: UnitPlan, crash: Crash) -> None:
        """Keep the crash of a unit that was given up."""
        if unit.chunks > MAX_CRASHED:
            self._store.publish(f"{_folder(unit.uri)}/{unit.unit_id}.json", json.dumps(asdict(crash)).encode())

    def forget(self, uri: str) -> None:
        """Release an input."""
        self._store.delete_folder(_folder(uri))


def _folder(uri: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(uri.encode()).hexdigest()[:24]}"
