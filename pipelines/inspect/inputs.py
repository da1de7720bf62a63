"""Statistics of the inputs of a dataset: by status, reason and stage, and the rows of the page's table.

Path: OUT/inputs/*.parquet -> InputStatistics. Memory is bounded: at most `TABLE_ROWS` rows are kept, failures
first.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

TABLE_ROWS = 2000
STATUSES = ("error", "partial", "no_face", "ok")  # the order of the table
DISTINCT_TEXTS = 2  # a cause with more than one wording is shown with its numbers left out
_COLUMNS = (
    "uri", "kind", "status", "stage", "reason", "frames", "faces", "tracks", "duration_s", "width", "height", "bytes",
    "stage_seconds",
)  # fmt: skip


class InputRow(NamedTuple):
    """One line of the table; sorts failures first, then by name."""

    rank: int
    uri: str
    status: str
    kind: str
    stage: str
    reason: str
    frames: int | None
    faces: int | None
    tracks: int | None
    duration_s: float | None
    width: int | None
    height: int | None


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
    _rows: list[InputRow] = field(default_factory=list)

    @staticmethod
    def columns() -> list[str]:
        """Columns that `add` reads; a file may lack any but `uri` and `status`."""
        return list(_COLUMNS)

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
            status = row["status"] or "error"
            self.status[status] += 1
            for name in ("frames", "faces", "tracks", "bytes"):
                self.totals[name] += row.get(name) or 0
            self.duration_s += row.get("duration_s") or 0.0
            for stage, seconds in row.get("stage_seconds") or ():
                self.seconds[stage] += seconds
            if status != "ok":
                self._add_cause(status, row.get("stage") or "", row.get("reason") or "")
            named: dict[str, Any] = {name: row.get(name) or "" for name in ("kind", "stage", "reason")}
            named |= {name: row.get(name) for name in InputRow._fields[6:]}
            self._rows.append(InputRow(rank=_rank(status), uri=row["uri"], status=status, **named))
        if len(self._rows) > 2 * TABLE_ROWS:
            self._rows = self.rows()

    def rows(self) -> list[InputRow]:
        """The lines of the table, errors first, then by name; at most `TABLE_ROWS`."""
        return sorted(self._rows, key=lambda row: row[:2])[:TABLE_ROWS]

    def reasons(self) -> list[tuple[Cause, int]]:
        """Reasons of failed inputs with their counts, errors first, most frequent first.

        A reason with a single wording keeps its numbers.
        """
        ordered = sorted(self.causes.items(), key=lambda item: (_rank(item[0].status), -item[1], item[0]))
        return [(cause._replace(text=self._wording(cause)), count) for cause, count in ordered]

    def _add_cause(self, status: str, stage: str, reason: str) -> None:
        text = reason or ("no face was found" if status == "no_face" else "no reason was recorded")
        cause = Cause(status, stage, re.sub(r"\d[\d.,]*", "…", text))
        self.causes[cause] += 1
        if len(self._texts[cause]) < DISTINCT_TEXTS:
            self._texts[cause].add(text)

    def _wording(self, cause: Cause) -> str:
        texts = self._texts[cause]
        return next(iter(texts)) if len(texts) == 1 else cause.text


def _rank(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else 0
