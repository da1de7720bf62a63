"""Statistics of the inputs of a dataset: by status, reason and stage, and the rows of the page's table.

Path: OUT/inputs/*.parquet -> InputStatistics. Memory is bounded: at most `TABLE_ROWS` rows are kept, failures
first.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

TABLE_ROWS = 2000
STATUSES = ("error", "partial", "no_face", "ok")  # the order of the table
DISTINCT_TEXTS = 2  # a cause with more than one wording is shown with its numbers left out
# Columns that are read; a file may lack any but `uri` and `status`.
COLUMNS = [
    "uri", "kind", "status", "stage", "reason", "frames", "faces", "tracks", "duration_s", "width", "height", "bytes",
    "stage_seconds",
]  # fmt: skip


class Cause(NamedTuple):
    """Reason of failed inputs; numbers in it are left out, so that equal reasons are counted together."""

    status: str
    stage: str
    text: str


@dataclass
class InputStatistics:
    """Counts over `inputs/`."""

    status: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    causes: Counter[Cause] = field(default_factory=Counter)
    duration_s: float = 0.0
    _texts: dict[Cause, set[str]] = field(default_factory=lambda: defaultdict(set))
    _rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.status.values())

    @property
    def failed(self) -> int:
        """Inputs that did not end as `ok`."""
        return self.count - self.status["ok"]

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one batch of inputs."""
        for row in batch.to_pylist():
            row = dict.fromkeys(COLUMNS) | row
            status = row["status"] = row["status"] or "error"
            self.status[status] += 1
            for name in ("frames", "faces", "tracks", "bytes"):
                self.totals[name] += row[name] or 0
            self.duration_s += row["duration_s"] or 0.0
            for stage, seconds in row.pop("stage_seconds") or ():
                self.seconds[stage] += seconds
            if status != "ok":
                self._add_cause(status, row["stage"] or "", row["reason"])
            self._rows.append(row | {"rank": _rank(status)})
        if len(self._rows) > 2 * TABLE_ROWS:
            self._rows = self.rows()

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the table, errors first, then by name; at most `TABLE_ROWS`."""
        return sorted(self._rows, key=lambda row: (row["rank"], row["uri"]))[:TABLE_ROWS]

    def reasons(self) -> Iterator[tuple[Cause, int]]:
        """Reasons of failed inputs with their counts, errors first, most frequent first.

        A reason with a single wording keeps its numbers.
        """
        ordered = sorted(self.causes.items(), key=lambda item: (_rank(item[0].status), -item[1], item[0]))
        for cause, count in ordered:
            texts = self._texts[cause]
            yield cause._replace(text=next(iter(texts))) if len(texts) == 1 else cause, count

    def _add_cause(self, status: str, stage: str, reason: str | None) -> None:
        text = reason or ("no face was found" if status == "no_face" else "no reason was recorded")
        cause = Cause(status, stage, re.sub(r"\d[\d.,]*", "…", text))
        self.causes[cause] += 1
        if len(self._texts[cause]) < DISTINCT_TEXTS:
            self._texts[cause].add(text)


def _rank(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else 0
