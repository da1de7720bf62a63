"""Work between two stages: units, each with its plan, its record and the table of its faces, in shards.

Path: UnitPlan -> Unit -> the stages of stages.py, each adding columns to `faces` and counts to `record`.

A unit is one chunk of one input. A shard, some units, is one row of the Ray dataset through every stage, so that it is
never split and either done or not. Faces are a table that only gains columns; a column whose name starts with "_" is
for later stages only. Crops and masks are JPEG and PNG bytes; full frames never leave frame_processor.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Literal, overload

import numpy as np
import pyarrow as pa

from pipelines.extract.plan import UnitPlan, to_json
from rigface.image import decode_crop

UnitStatus = Literal["ok", "partial", "error"]
# Of a shard: JSON of plans and of records, an Arrow IPC stream of each unit.
ROW = pa.schema(
    {"plans": pa.string(), "records": pa.string(), "faces": pa.list_(pa.large_binary()), "again": pa.bool_()}
)
MAX_CACHED_CROPS = 320  # decoded crops kept for the next stage of the same actor: 63 MB


@dataclass
class Record:
    """The outcome of a unit, stored beside the rows of its shard."""

    unit_id: str
    uri: str
    index: int
    status: UnitStatus = "ok"
    stage: str | None = None
    reason: str | None = None
    crash: str | None = None  # a failure that may be no fault of the input: how a child died, what the disk refused
    frames: int = 0
    faces: int = 0
    tracks: int = 0
    last_frame: int = -1
    last_time_s: float = 0.0
    width: int | None = None
    height: int | None = None
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # wall clock by step
    cpu_seconds: float = 0.0
    numbered: list[tuple[int, int]] = field(default_factory=list)  # tracks (in chunk, in input) once they differ

    @classmethod
    def of(cls, plan: UnitPlan) -> Record:
        """The record of a unit that no stage has seen."""
        return cls(plan.unit_id, plan.uri, plan.index)

    def give_up(self, stage: str, reason: str, crash: str) -> None:
        """Make it the record of a unit that ended its process, and has no faces for that."""
        self.status, self.stage, self.reason, self.crash = "error", stage, reason, crash
        self.faces = self.tracks = 0


def records_json(records: Iterable[Record]) -> str:
    """Records as they are stored."""
    return to_json(list(records))


def records_of_json(text: str | bytes) -> list[Record]:
    """Stored records; fields that this version does not know are left out."""
    known = {f.name for f in fields(Record)}
    records = [Record(**{k: v for k, v in stored.items() if k in known}) for stored in json.loads(text)]
    for record in records:
        record.numbered = [(chunk, now) for chunk, now in record.numbered]
    return records


class Crops(Sequence[np.ndarray]):
    """The crops of some faces (`rows` of all `cells`), decoded on access; the cache, by row, is shared by a unit."""

    def __init__(self, cells: pa.Array, rows: np.ndarray, cache: dict[int, np.ndarray]) -> None:
        self._cells, self._rows, self._cache = cells, rows.tolist(), cache

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, at: slice) -> list[np.ndarray]: ...
    def __getitem__(self, at: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        row = self._rows[at]
        image = self._cache.get(row)
        if image is None:
            image = decode_crop(self._cells[row].as_py())
            if len(self._cache) < MAX_CACHED_CROPS:
                self._cache[row] = image
        return image


class Unit:
    """One unit of work: its plan, the outcome so far, and its faces, an Arrow IPC stream or None.

    The stream is parsed on first access, and passed on as it is if unchanged.
    """

    def __init__(self, plan: UnitPlan, record: Record | None = None, blob: pa.Buffer | None = None) -> None:
        self.plan, self.record = plan, record or Record.of(plan)
        self.set_faces(blob)

    @property
    def unit_id(self) -> str:
        return self.plan.unit_id

    def set_faces(self, blob: pa.Buffer | bytes | None) -> None:
        """Replace the faces by an Arrow IPC stream; None: no faces."""
        self._blob = pa.py_buffer(blob) if isinstance(blob, bytes) else blob
        self._table: pa.Table | None = None
        self._cache: dict[int, np.ndarray] = {}

    @property
    def has_faces(self) -> bool:
        return self._blob is not None or self._table is not None

    @property
    def faces(self) -> pa.Table:
        """One row per face; ValueError if there are none."""
        if self._table is None:
            if self._blob is None:
                raise ValueError(f"unit {self.unit_id} has no faces")
            self._table = pa.ipc.open_stream(self._blob).read_all().combine_chunks()
        return self._table

    @faces.setter
    def faces(self, table: pa.Table) -> None:
        self._table, self._blob = table, None

    @property
    def blob(self) -> pa.Buffer | None:
        """The faces as an Arrow IPC stream; None if there are none."""
        return self._blob if self._table is None or self._blob is not None else ipc(self._table)

    def forget_crops(self) -> None:
        """Let go of the decoded crops."""
        self._cache.clear()

    @property
    def good(self) -> np.ndarray:
        """(G,) indices of the faces that no stage has failed on."""
        return np.flatnonzero(self["status"].to_numpy(zero_copy_only=False) == "ok")

    def __getitem__(self, name: str) -> pa.Array:
        """A column of the faces, in one piece."""
        column = self.faces[name]
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(len(rows), width) float32 of a fixed-size-list column without nulls in these rows."""
        column = self[name].take(pa.array(rows))
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), column.type.list_size)

    def crops(self, rows: np.ndarray) -> Crops:
        """The crops of these faces; those that an earlier stage decoded come from the cache."""
        return Crops(self["crop"], rows, self._cache)

    def add(self, columns: dict[str, pa.Array], rows: np.ndarray) -> None:
        """Add columns given for some of the faces; the others get nulls."""
        spread: list[int | None] = [None] * len(self.faces)
        for position, row in enumerate(rows.tolist()):
            spread[row] = position
        sources = pa.array(spread, pa.int64())
        for name, values in columns.items():
            self.faces = self.faces.append_column(name, values.take(sources))

    def fail(self, row: int, stage: str, reason: str) -> None:
        """Mark a face that a stage failed on. The face stays; its columns of that stage are null."""
        for name, value in (("status", "error"), ("reason", f"{stage}: {reason}")):
            values = self[name].to_pylist()
            values[row] = value
            at = self.faces.schema.get_field_index(name)
            self.faces = self.faces.set_column(at, name, pa.array(values, pa.string()))

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time inside to the step's seconds."""
        wall = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.record.seconds
            seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - wall

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Add the processor time inside to the record's; it takes 0.1 ms to ask for, so not around each face."""
        cpu = time.process_time()
        try:
            yield
        finally:
            self.record.cpu_seconds += time.process_time() - cpu


@dataclass
class Shard:
    """Units that become one object, and that one actor does one after another."""

    units: list[Unit]
    again: bool = False  # an earlier attempt at it ended with its process

    @property
    def name(self) -> str:
        return self.units[0].plan.shard

    @property
    def records(self) -> list[Record]:
        return [unit.record for unit in self.units]

    @classmethod
    def from_arrow(cls, row: pa.Table) -> Shard:
        """A shard from a Ray row; the first stage's row has plans only. The faces are not copied."""
        plans = plans_of_json(row["plans"][0].as_py())
        if "records" not in row.column_names:
            return cls([Unit(plan) for plan in plans])
        records, blobs = records_of_json(row["records"][0].as_py()), _buffers(row["faces"].chunk(0).flatten())
        return cls([Unit(*unit) for unit in zip(plans, records, blobs)], row["again"][0].as_py())

    def to_arrow(self) -> pa.Table:
        """The shard as a Ray row."""
        blobs = [None if blob is None else memoryview(blob) for blob in (unit.blob for unit in self.units)]
        texts = plans_json(unit.plan for unit in self.units), records_json(self.records)
        return pa.Table.from_pydict(dict(zip(ROW.names, ([texts[0]], [texts[1]], [blobs], [self.again]))), ROW)


def plans_json(plans: Iterable[UnitPlan]) -> str:
    """The plans of a shard's units."""
    return to_json(list(plans))


def plans_of_json(text: str) -> list[UnitPlan]:
    """The inverse of `plans_json`."""
    return [UnitPlan.of(fields) for fields in json.loads(text)]


def ipc(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _buffers(cells: pa.LargeBinaryArray) -> Iterator[pa.Buffer | None]:
    """The cells of a large-binary array, without a copy (a pyarrow scalar would be one)."""
    _, offsets, data = cells.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(cells) + 1, 8 * cells.offset).tolist() if len(cells) else []
    for is_valid, start, stop in zip(cells.is_valid().to_pylist(), bounds, bounds[1:]):
        yield data.slice(start, stop - start) if is_valid else None
