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
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.examples.layout import parts_of, schema_of
from rigface.errors import PlanError
from rigface.examples import CAPTION, ExampleSpec, LatentSpec
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
    """The small columns of all examples of a folder, or of several one after the other."""

    parts: list[Part]
    counts: list[int]  # rows of each part
    schema: pa.Schema  # of the parts; the columns that all have
    table: pa.Table  # `COLUMNS` of all rows, in the order of the parts
    is_stored: bool  # False: it was read from the parts
    datasets: list[int]  # number of parts of each folder

    @staticmethod
    def of(*stores: Store) -> ExampleIndex:
        """The index of some folders of one kind, see `check_alike`; PlanError if one has no examples, or is damaged."""
        indexes = [_of(store) for store in stores]
        return ExampleIndex(
            parts=[part for index in indexes for part in index.parts],
            counts=[count for index in indexes for count in index.counts],
            schema=min((index.schema for index in indexes), key=lambda schema: len(schema.names)),
            table=pa.concat_tables([index.table.replace_schema_metadata() for index in indexes]).unify_dictionaries(),
            is_stored=all(index.is_stored for index in indexes),
            datasets=[len(index.parts) for index in indexes],
        )

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


def check_alike(stores: Sequence[Store]) -> None:
    """Check that the examples of several folders can be trained on together; PlanError names the differences."""
    first, *others = [schema_of(store, parts_of(store)) for store in stores]
    for store, schema in zip(stores[1:], others):
        differ = [
            f"{name} ({mine!r} and {theirs!r})"
            for name, mine in _described(first).items()
            if mine != (theirs := _described(schema)[name])
        ]
        if differ:
            raise PlanError(
                f"{stores[0].uri} and {store.uri} cannot be trained on together: they differ in {', '.join(differ)}"
            )


def _described(schema: pa.Schema) -> dict[str, Any]:
    """What examples of one training have in common, by its name."""
    spec, latents = ExampleSpec.of(schema), LatentSpec.of(schema)
    return {
        "head": f"{spec.head.name} {spec.head.version}",
        "size": spec.size,
        "style": spec.style,
        "expression code": (spec.expression_field, spec.expression_size),
        "profile": spec.profile,
        "identity vectors": spec.identity,
        "form": "pictures" if latents is None else "latents",
        "autoencoder": latents and latents.autoencoder,
        "captions": CAPTION in schema.names,
    }


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


def _of(store: Store) -> ExampleIndex:
    """The index of a folder: the stored one if it is of the parts that are there."""
    paths = parts_of(store)
    stored = _stored(store)
    return stored if stored is not None and [part.path for part in stored.parts] == paths else _read(store, paths)


def _stored(store: Store) -> ExampleIndex | None:
    """The index as it is stored; None if there is none, PlanError if it is damaged."""
    try:
        data = store.read(INDEX)
    except FileNotFoundError:
        return None
    try:
        table = pq.read_table(pa.BufferReader(data), read_dictionary=list(NAMES))
        about = table.schema.metadata
        parts = json.loads(about[b"rigface.parts"])
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(about[b"rigface.schema_of_parts"])))
        places, counts = [Part(store, path) for path, _ in parts], [count for _, count in parts]
    except (ValueError, KeyError, TypeError, OSError) as error:  # of JSON, base64 and pyarrow
        raise PlanError(f"{store.uri}/{INDEX} is damaged ({error!r}): delete it, and parts are read instead") from error
    return ExampleIndex(places, counts, schema, table, True, [len(parts)])


def _read(store: Store, paths: list[str]) -> ExampleIndex:
    """The index of these objects, some columns of each read."""
    parts = [Part(store, path) for path in paths]
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(lambda part: part.table(COLUMNS).replace_schema_metadata(), parts))
    counts, table = [len(t) for t in tables], pa.concat_tables(tables)
    for at, name in enumerate(COLUMNS):
        if name in NAMES:
            table = table.set_column(at, name, table[name].dictionary_encode())
    return ExampleIndex(parts, counts, schema_of(store, paths), table, False, [len(parts)])
