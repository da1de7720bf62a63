"""Inputs whose units take their decoder down one after the other: remembered beside the dataset, so that the rest is not tried.

Path: the stage `look` gives a unit up -> `add` -> any looker, on any node, that comes to another unit of that input -> `verdict`.

A film of two hours is 120 units at five frames a second. Were each tried until it is given up, the film would cost 240
crashes, or four minutes of waiting for every unit that hangs. Two units given up are the film's fault; units of it that were
looked at before keep their rows. `--retry-errors` forgets, and tries all that was given up again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rigface.storage.store import INTERNAL, Store

FOLDER = f"{INTERNAL}/deaths"
ENOUGH = 2  # units of one input
KEPT = ("stage", "reason", "crash")


class Quarantine:
    """What is remembered in one dataset. An object per unit given up, so that nobody has to wait for anybody."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def verdict(self, unit_id: str, plan: dict[str, Any]) -> dict[str, Any] | None:
        """Why another unit of this input need not be tried: stage, reason and crash of one that was; None: it is to be tried."""
        if plan["chunks"] <= ENOUGH:
            return None
        others = [p for p in self._store.paths(_folder(plan["uri"]), ".json") if unit_id not in p]
        if len(others) < ENOUGH:
            return None
        return json.loads(self._store.read(min(others)))

    def add(self, unit_id: str, plan: dict[str, Any], record: dict[str, Any]) -> None:
        """A unit was given up because its worker died."""
        if plan["chunks"] > ENOUGH:
            kept = json.dumps({name: record[name] for name in KEPT})
            self._store.publish(f"{_folder(plan['uri'])}/{unit_id}.json", kept.encode())

    def forget(self, uri: str) -> None:
        """Nothing is held against this input any more."""
        self._store.delete_folder(_folder(uri))


def _folder(uri: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(uri.encode()).hexdigest()[:24]}"
