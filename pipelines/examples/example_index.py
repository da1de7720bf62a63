"""Index of a folder of examples: the small columns of all rows in one object, so that training reads no column of every
part before its first step.

Path: OUT/examples -> `publish_index` of `pair` and `encode` -> OUT/index.parquet -> `ExampleIndex` -> `train`.

A row per example, in the order of the parts and of their rows; the parts, their numbers of rows and their schema, which
says what the conditions are, are metadata. An index counts if it has exactly the parts that are there. Without one, as
in outputs of before there were any, the columns are read from each part. In memory are some 60 bytes an example.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.examples.layout import parts_of, schema_of
from rigface.examples import ExampleSpec
from rigface.storage.store import Store

INDEX = "index.parquet"
COLUMNS = ("example", "split", "identity", "kind", "take", "delta_pose_deg")
NAMES = ("split", "identity", "kind", "take")  # columns whose values come again and again
READERS = 16  # parts read at once


class Part(NamedTuple):
    """An object of examples/."""

    store: Store
    path: str

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Its rows, or some of their columns; raises as `Store.table`."""
        return self.store.table(self.path, None if columns is None else list(columns))


@dataclass(frozen=True, eq=False)
class ExampleIndex:
    """The small columns of all examples of a folder."""

    parts: list[Part]
    counts: list[int]  # rows of each part
    schema: pa.Schema  # of the parts
    table: pa.Table  # `COLUMNS` of all rows, in the order of the parts
    is_stored: bool  # False: it was read from the parts

    @staticmethod
    def of(store: Store) -> ExampleIndex:
        """The index of a folder; PlanError if there are no examples, or one is damaged."""
        paths = parts_of(store)
        stored = _stored(store)
        if stored is not None and [part.path for part in stored.parts] == paths:
            return stored
        return _read(store, paths)

    @property
    def spec(self) -> ExampleSpec:
        """The spec that all examples share."""
        return ExampleSpec.of(self.schema)

    def by_part(self, values: np.ndarray) -> list[np.ndarray]:
        """(N, ...) values of all rows, cut by part."""
        return np.split(values, np.cumsum(self.counts)[:-1])

    def rows(self, split: str) -> list[np.ndarray]:
        """For each part, the numbers of its rows of a split."""
        return [np.flatnonzero(part) for part in self.by_part(self.is_of(split))]

    def is_of(self, split: str) -> np.ndarray:
        """(N,) bool: the rows of a split."""
        is_of: np.ndarray = pc.equal(self.table["split"], split).to_numpy()
        return is_of


def publish_index(store: Store) -> pa.Table:
    """Write the index of a finished folder, read from its parts; the small columns of all rows."""
    index = _read(store, parts_of(store))
    about = {
        "rigface.parts": json.dumps([[part.path, count] for part, count in zip(index.parts, index.counts)]),
        "rigface.schema_of_parts": base64.b64encode(index.schema.serialize()),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(index.table.replace_schema_metadata(about), sink, compression="zstd", use_dictionary=list(NAMES))
    store.publish(INDEX, sink.getvalue())
    return index.table


def _stored(store: Store) -> ExampleIndex | None:
    """The index as it is stored; None if there is none."""
    try:
        data = store.read(INDEX)
    except FileNotFoundError:
        return None
    table = pq.read_table(pa.BufferReader(data), read_dictionary=list(NAMES))
    about = table.schema.metadata
    parts = json.loads(about[b"rigface.parts"])
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(about[b"rigface.schema_of_parts"])))
    return ExampleIndex([Part(store, path) for path, _ in parts], [count for _, count in parts], schema, table, True)


def _read(store: Store, paths: list[str]) -> ExampleIndex:
    """The index of these objects, some columns of each read."""
    parts = [Part(store, path) for path in paths]
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(lambda part: part.table(COLUMNS).replace_schema_metadata(), parts))
    return ExampleIndex(parts, [len(t) for t in tables], schema_of(store, paths), pa.concat_tables(tables), False)
