"""Held-out examples: rows of a split, people in turns.

Path: OUT/examples -> `rows_of` -> `in_turns` -> validation inside training, and `rigface evaluate`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

from rigface.storage.store import Store


@dataclass(frozen=True)
class ExampleRow:
    """The small columns of an example, and its place: an object of examples/ and a row in it."""

    part: str
    row: int
    example: str
    split: str
    identity: str
    kind: str
    take: str
    delta_pose_deg: float


COLUMNS = [field.name for field in fields(ExampleRow)[2:]]


def rows_of(source: Store, parts: Sequence[str], split: str | None = "test") -> list[ExampleRow]:
    """The rows of one split; None: of all."""

    def read(part: str) -> list[ExampleRow]:
        rows = source.table(part, COLUMNS).to_pylist()
        return [ExampleRow(part, k, **row) for k, row in enumerate(rows) if split in (None, row["split"])]

    with ThreadPoolExecutor(16) as pool:
        return [row for rows in pool.map(read, parts) for row in rows]


def in_turns(rows: Sequence[ExampleRow], order: Callable[[ExampleRow], Any]) -> list[ExampleRow]:
    """All rows, people in turns; the rows of one person by `order`. The same rows give the same order in every run."""
    turns: dict[str, int] = {}
    ranked = []
    for row in sorted(rows, key=order):
        turn = turns[row.identity] = turns.get(row.identity, -1) + 1
        ranked.append((turn, row.example, row))
    return [row for _, _, row in sorted(ranked, key=lambda r: r[:2])]
