"""The row that travels: one unit of work, its faces as one Arrow blob, and what has been learnt about it.

Path: plan -> Unit -> look, reconstruct, finish, write, each adding columns to `faces` and numbers to `record`.

A unit is one chunk of one input, and one row of the Ray dataset through every stage, so that it is never split and either
done or not. Faces are a table that only gains columns; a column whose name starts with "_" is for later stages only.
Pictures are in it as JPEG; a full frame never leaves the looker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

import numpy as np
import pyarrow as pa

ROW = pa.schema(
    [
        ("unit_id", pa.string()),
        ("plan", pa.string()),  # JSON: uri, kind, index, chunks, chunk, expected
        ("record", pa.string()),  # JSON, see `new_record`
        ("faces", pa.large_binary()),  # Arrow IPC stream
    ]
)
CROPS_KEPT = 320  # decoded crops kept for the next stage of the same actor: 63 MB


def new_record(unit_id: str, plan: dict[str, Any]) -> dict[str, Any]:
    """What is told about a unit at its end, and kept beside its rows. Plain JSON."""
    return {
        "unit_id": unit_id,
        "uri": plan["uri"],
        "index": plan["index"],
        "status": "ok",  # `ok`, `partial` or `error`
        "stage": None,
        "reason": None,
        "crash": None,  # what went wrong that may not be the input's fault: how a child died, a file system's refusal
        "frames": 0,
        "faces": 0,
        "tracks": 0,
        "last_frame": -1,
        "last_time_s": 0.0,
        "width": None,
        "height": None,
        "bytes": 0,
        "seconds": {},  # by step, wall clock
        "cpu_seconds": 0.0,
    }


class Crops(Sequence[np.ndarray]):
    """The crops of some faces, decoded when they are asked for and kept while there is room.

    Args:
        cells: JPEGs of all faces.
        rows: which of them.
        kept: decoded so far, by row; shared by all views of one unit.
    """

    def __init__(self, cells: pa.Array, rows: np.ndarray, kept: dict[int, np.ndarray]) -> None:
        self._cells, self._rows, self._kept = cells, rows.tolist(), kept

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
        if row in self._kept:
            return self._kept[row]
        image = _decoded(self._cells[row].as_py())
        if len(self._kept) < CROPS_KEPT:
            self._kept[row] = image
        return image


class Unit:
    """One unit of work, between two stages.

    Args:
        plan: what is to be done.
        record: what has come of it so far.
        blob: the faces as an Arrow IPC stream, or None where there are none. It is read when somebody asks, and handed on
            as it is where nobody does.
    """

    def __init__(
        self, unit_id: str, plan: dict[str, Any], record: dict[str, Any], blob: pa.Buffer | None = None
    ) -> None:
        self.unit_id, self.plan, self.record = unit_id, plan, record
        self.set_faces(blob)

    def set_faces(self, blob: pa.Buffer | bytes | None) -> None:
        """Other faces, as an Arrow IPC stream; None: nobody."""
        self._blob = pa.py_buffer(blob) if isinstance(blob, bytes) else blob
        self._table: pa.Table | None = None
        self._kept: dict[int, np.ndarray] = {}

    @property
    def has_faces(self) -> bool:
        return self._blob is not None or self._table is not None

    @property
    def faces(self) -> pa.Table:
        """One row per face.

        Raises:
            ValueError: there are none.
        """
        if self._table is None:
            if self._blob is None:
                raise ValueError(f"unit {self.unit_id} has no faces")
            self._table = pa.ipc.open_stream(self._blob).read_all().combine_chunks()
        return self._table

    @faces.setter
    def faces(self, table: pa.Table) -> None:
        self._table, self._blob = table, None

    @classmethod
    def unpack(cls, row: pa.Table) -> Unit:
        """A unit from a Ray row, the first of which has a name and a plan only; faces stay where they are in memory."""
        unit_id, plan = row["unit_id"][0].as_py(), json.loads(row["plan"][0].as_py())
        if "record" not in row.column_names:
            return cls(unit_id, plan, new_record(unit_id, plan))
        return cls(unit_id, plan, json.loads(row["record"][0].as_py()), _buffer(row["faces"]))

    def pack(self) -> pa.Table:
        """The Ray row."""
        blob = self._blob if self._table is None or self._blob is not None else ipc(self._table)
        cell = pa.nulls(1, pa.large_binary()) if blob is None else _cell(blob)
        texts = [pa.array([t]) for t in (self.unit_id, json.dumps(self.plan), json.dumps(self.record))]
        return pa.table([*texts, cell], schema=ROW)

    @property
    def good(self) -> np.ndarray:
        """(G,) indices of the faces no stage has failed on."""
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
        """The crops of these faces; what was decoded for a stage before is still there."""
        return Crops(self["crop"], rows, self._kept)

    def add(self, columns: dict[str, pa.Array], rows: np.ndarray) -> None:
        """Add columns given for some of the faces; the others get nulls."""
        spread: list[int | None] = [None] * len(self.faces)
        for position, row in enumerate(rows.tolist()):
            spread[row] = position
        where = pa.array(spread, pa.int64())
        for name, values in columns.items():
            self.faces = self.faces.append_column(name, values.take(where))

    def fail(self, row: int, stage: str, reason: str) -> None:
        """Say that a stage failed on a face. The face stays; its columns of that stage are null."""
        for name, value in (("status", "error"), ("reason", f"{stage}: {reason}")):
            values = self[name].to_pylist()
            values[row] = value
            at = self.faces.schema.get_field_index(name)
            self.faces = self.faces.set_column(at, name, pa.array(values, pa.string()))

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Count the time inside as `step`."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds = self.record["seconds"]
            seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - wall
            self.record["cpu_seconds"] += time.process_time() - cpu


def _decoded(jpeg: bytes) -> np.ndarray:
    """(256, 256, 3) uint8 RGB: a crop that we have encoded ourselves, at the half size that every later stage works at.

    The decoder halves in the frequency domain, so this takes a third of the time of decoding and shrinking.
    """
    import cv2

    half = cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB  # the flag for halving, and colours in our order
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), half))


def ipc(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _buffer(column: pa.ChunkedArray) -> pa.Buffer | None:
    """The only cell of a large-binary column, where it is; a pyarrow scalar would be a copy."""
    cell = column.chunk(0)
    if cell.null_count:
        return None
    _, offsets, data = cell.buffers()
    start, stop = np.frombuffer(offsets, np.int64, 2, 8 * cell.offset)
    return data.slice(start, stop - start)


def _cell(blob: pa.Buffer) -> pa.Array:
    """One large-binary cell around a buffer, without copying it."""
    offsets = pa.py_buffer(np.array([0, blob.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, blob])
