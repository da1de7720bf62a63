"""Which examples are looked at and never learned from: rows of a split, people in turns.

Path: OUT/examples -> `rows_of` -> `in_turns` -> validation inside training, and `rigface evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rigface.storage.store import Store

Row = dict[str, Any]
LIGHT = ("example", "split", "identity", "kind", "take", "delta_pose_deg")  # columns that are small and decide


def rows_of(source: Store, parts: Sequence[str], split: str | None = "test") -> list[Row]:
    """The light columns of one split, each row with its `part` and the number of its `row` in it.

    Args:
        split: None: every row.
    """

    def read(part: str) -> list[Row]:
        rows = source.table(part, list(LIGHT)).to_pylist()
        return [{**row, "part": part, "row": k} for k, row in enumerate(rows) if split in (None, row["split"])]

    with ThreadPoolExecutor(16) as pool:
        return [row for rows in pool.map(read, parts) for row in rows]


def in_turns(rows: Sequence[Row], order: Callable[[Row], Any]) -> list[Row]:
    """All rows, people in turns; the rows of one person by `order`. The same rows give the same order in every run."""
    turns: dict[str, int] = {}
    ranked = []
    for row in sorted(rows, key=order):
        turn = turns[row["identity"]] = turns.get(row["identity"], -1) + 1
        ranked.append((turn, row["example"], row))
    return [row for _, _, row in sorted(ranked, key=lambda r: r[:2])]
