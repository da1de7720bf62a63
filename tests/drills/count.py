"""Counts at the end of a drill: expected, found, duplicate and lost rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from rigface.storage.store import Store

KEYS = ("uri", "frame_index", "track")
ORDER = [(name, "ascending") for name in KEYS]


@dataclass(frozen=True)
class Count:
    """Comparison of a dataset with that of an undisturbed run on the same inputs.

    Args:
        expected, found: rows of faces/ in the undisturbed dataset and in the other.
        duplicates: rows with a repeated key. lost: missing keys. extra: unexpected keys.
        different: rows with other values, the name of the person included.
        inputs, inputs_found: rows of inputs/.
        blamed: inputs whose status differs.
    """

    expected: int
    found: int
    duplicates: int
    lost: int
    extra: int
    different: int
    inputs: int
    inputs_found: int
    blamed: int

    @property
    def is_exact(self) -> bool:
        return not (self.duplicates or self.lost or self.extra or self.different or self.blamed) and (
            self.expected == self.found > 0 and self.inputs == self.inputs_found
        )

    def __str__(self) -> str:
        return "\n".join(f"{name:>12}  {value:>7,}" for name, value in asdict(self).items())


def faces(out: str) -> pa.Table:
    """All rows of faces/, in one order, with file names instead of uris, so that disk and S3 compare."""
    store = Store(out)
    tables = [store.table(path) for path in store.paths("faces", ".parquet")]
    table = pa.concat_tables(tables)
    names = pa.array([uri.rpartition("/")[2] for uri in table["uri"].to_pylist()], pa.string())
    return table.set_column(table.column_names.index("uri"), "uri", names).sort_by(ORDER).combine_chunks()


def inputs(out: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of inputs/ by name, without times."""
    store = Store(out)
    rows = [row for path in store.paths("inputs", ".parquet") for row in store.table(path).to_pylist()]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = row.pop("uri").rpartition("/")[2]
        row.pop("stage_seconds")
        by_name.setdefault(name, []).append(row)
    return by_name


def compare(whole: str, out: str) -> Count:
    """Compare a dataset with that of an undisturbed run on the same inputs.

    Args:
        whole, out: uris of the two.
    """
    wanted, have = faces(whole), faces(out)
    keys = [Counter(zip(*(table[name].to_pylist() for name in KEYS))) for table in (wanted, have)]
    same = sorted(keys[0].keys() & keys[1].keys())
    rows = [_rows(table) for table in (wanted, have)]
    expected, found = inputs(whole), inputs(out)
    statuses = {
        name: [{r["status"] for r in rows} for rows in (expected[name], found.get(name, []))] for name in expected
    }
    return Count(
        expected=len(wanted),
        found=len(have),
        duplicates=len(have) - len(keys[1]),
        lost=len(keys[0] - keys[1]),
        extra=len(keys[1].keys() - keys[0].keys()),
        different=sum(rows[0][key] != rows[1][key] for key in same),
        inputs=sum(len(rows) for rows in expected.values()),
        inputs_found=sum(len(rows) for rows in found.values()),
        blamed=sum(before != after for before, after in statuses.values()),
    )


def count_steps(wanted: list[tuple[int, float]], found: list[tuple[int, float]], rel: float) -> dict[str, int]:
    """Compare the (step, loss) of a training run with those of an undisturbed run; losses may differ by `rel`."""
    losses = dict(found)
    return {
        "expected": len(wanted),
        "found": len(found),
        "duplicates": len(found) - len(losses),
        "lost": sum(step not in losses for step, _ in wanted),
        "different": sum(not abs(losses[step] - loss) <= rel * loss for step, loss in wanted if step in losses),
    }


def _rows(table: pa.Table) -> dict[tuple, dict[str, Any]]:
    return {tuple(row[name] for name in KEYS): row for row in table.to_pylist()}
