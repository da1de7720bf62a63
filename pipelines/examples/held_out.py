"""Held-out examples: rows of a split, people in turns.

Path: `ExampleIndex` -> `rows_of` -> `in_turns` -> validation inside training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.examples.example_index import ExampleIndex, Part


@dataclass(frozen=True)
class ExampleRow:
    """The small columns of an example, and its place: an object of examples/ and a row in it."""

    part: Part
    row: int
    example: str
    split: str
    identity: str
    kind: str
    take: str
    delta_pose_deg: float


def rows_of(index: ExampleIndex, split: str = "test") -> list[ExampleRow]:
    """The rows of one split."""
    places = np.flatnonzero(index.is_of(split))
    ends = np.cumsum(index.counts)
    numbers = np.searchsorted(ends, places, side="right")
    rows = places - (ends - index.counts)[numbers]
    cells = index.table.take(places).to_pylist()
    return [ExampleRow(index.parts[n], row, **cell) for n, row, cell in zip(numbers.tolist(), rows.tolist(), cells)]


def in_turns(rows: Sequence[ExampleRow], order: Callable[[ExampleRow], Any]) -> list[ExampleRow]:
    """All rows, people in turns; the rows of one person by `order`. The same rows give the same order in every run."""
    turns: dict[str, int] = {}
    ranked = []
    for row in sorted(rows, key=order):
        turn = turns[row.identity] = turns.get(row.identity, -1) + 1
        ranked.append((turn, row.example, row))
    return [row for _, _, row in sorted(ranked, key=lambda r: r[:2])]
