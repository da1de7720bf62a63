"""Quarantine: inputs and units that are not tried again until `--retry-errors`.

* After two crashed units of an input, its remaining units are skipped. Path: the stage `detect_faces` gives a unit up
  -> `add` -> the same stage, on any node, at another unit of that input -> `verdict`.
* A unit that takes its actor or node down can give nothing up. A shard is noted before it is begun (`begin`) and the
  note deleted when it is committed (`end`). At a noted shard each unit is counted before its work in an actor begins
  (`attempt`) and the count deleted after it (`ended`), so that its neighbours are not blamed. Killed jobs count, too,
  hence the high limit.

A video of two hours is 120 units at five frames a second. If each were tried until it is given up, the video would
cost 240 crashes, or four minutes of waiting for every unit that hangs. Units that were processed before keep their
rows.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from pipelines.extract.plan import UnitPlan
from pipelines.extract.unit import Shard
from rigface.storage.store import INTERNAL, Store

FOLDER = f"{INTERNAL}/quarantine"
MAX_CRASHED = 2  # units of one input
MAX_ATTEMPTS = 10  # of a unit; each ended with its actor, its node or the job


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

    def begin(self, shard: str) -> bool:
        """Note, durably, that a shard is begun; True if it was begun before and never ended."""
        return not self._store.publish(_note(shard), b"begun", replace=False)

    def attempt(self, unit: UnitPlan, stage: str) -> Crash | None:
        """Count an attempt of an actor, with this first stage, at a unit of a shard that was begun before; the verdict
        of earlier attempts if there were too many.
        """
        path = _attempts(unit)
        try:
            count = int(self._store.read(path))
        except FileNotFoundError:
            count = 0
        if count >= MAX_ATTEMPTS:
            reason = f"{count} attempts at it ended with their process or node; it may need more memory than there is"
            return Crash(stage, reason, "lost actor")
        self._store.publish(path, str(count + 1).encode())
        return None

    def ended(self, unit: UnitPlan) -> None:
        """Forget the attempts at a unit that an actor is done with."""
        self._store.delete(_attempts(unit))

    def end(self, shard: Shard) -> None:
        """Forget the attempts at a shard that is committed."""
        for unit in shard.units if shard.again else ():
            self.ended(unit.plan)
        self._store.delete(_note(shard.name))

    def forget(self, uri: str) -> None:
        """Release an input."""
        self._store.delete_folder(_folder(uri))


def _note(shard: str) -> str:
    return f"{FOLDER}/shards/{shard}"


def _attempts(unit: UnitPlan) -> str:
    return f"{_folder(unit.uri)}/{unit.unit_id}.attempts"


def _folder(uri: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(uri.encode()).hexdigest()[:24]}"
