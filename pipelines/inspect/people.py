"""Frames and best row of each person of a dataset, in 24 bytes a person.

Path: names of a batch of rows -> `People.add` -> `rigface inspect`. Names are kept as hashes of 64 bits; those of the
few persons on show are read again with their pictures.
"""

from typing import NamedTuple

import numpy as np

from rigface.dataset.identities import uri_key

PERSON = np.dtype([("key", "u8"), ("frames", "i4"), ("confidence", "f4"), ("file", "i4"), ("row", "i4")])
MIN_PENDING = 1 << 16  # rows that wait at least before they are merged


class RowPosition(NamedTuple):
    """Position of a row: number of its file in the listing, number of the row in the file."""

    file: int
    row: int


class Person(NamedTuple):
    """One person: number of frames, and the most trusted of them."""

    frames: int
    position: RowPosition


class People:
    """All persons, identities or tracks, by name."""

    def __init__(self) -> None:
        self._merged = np.zeros(0, PERSON)
        self._pending: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._all())

    def add(self, names: list[str], confidence: np.ndarray, file: int, rows: np.ndarray) -> None:
        """Count rows (N,) of a file, with their persons' names and their confidences."""
        keys = {name: uri_key(name) for name in set(names)}
        new = np.zeros(len(names), PERSON)
        new["key"], new["confidence"], new["row"] = [keys[name] for name in names], confidence, rows
        new["frames"], new["file"] = 1, file
        self._pending.append(_merged(new))
        if sum(map(len, self._pending)) > max(MIN_PENDING, len(self._merged)):
            self._all()

    @property
    def frames(self) -> np.ndarray:
        """(K,) number of frames of each person."""
        return np.asarray(self._all()["frames"])

    def most_seen(self, count: int) -> list[Person]:
        """The persons with the most frames, most first."""
        people = self._all()
        order = np.lexsort((people["row"], people["file"], -people["frames"]))[:count]
        return [Person(p["frames"].item(), RowPosition(p["file"].item(), p["row"].item())) for p in people[order]]

    def _all(self) -> np.ndarray:
        if self._pending:
            self._merged, self._pending = _merged(np.concatenate([self._merged, *self._pending])), []
        return self._merged


def _merged(people: np.ndarray) -> np.ndarray:
    """One entry for each person: the frames added, the row of the highest confidence, the first of equal ones."""
    people = people[np.lexsort((people["row"], people["file"], -people["confidence"], people["key"]))]
    first = np.flatnonzero(np.diff(people["key"], prepend=~people["key"][:1]))
    merged = people[first]
    merged["frames"] = np.add.reduceat(people["frames"], first) if len(first) else 0
    return merged
