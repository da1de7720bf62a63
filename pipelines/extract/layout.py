"""Paths and Parquet encoding of a dataset's objects."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.extract.unit import Record
from rigface.storage.store import INTERNAL, Store, sharded
from rigface.types import Quality

ROW_GROUP = 128  # faces: 5 to 10 MB of crops and masks
RECORD_KEY = b"rigface.unit"
QUALITY_COLUMNS = tuple(f.name for f in fields(Quality))


def part_path(unit_id: str) -> str:
    """Path of a unit's faces."""
    return sharded("faces", unit_id, ".parquet")


def error_path(unit_id: str) -> str:
    """Path of the record of a unit without faces: an error, or frames that show no face."""
    return sharded(f"{INTERNAL}/units", unit_id, ".json")


def with_record(table: pa.Table, record: Record) -> pa.Table:
    """The table with a unit's record in its metadata: rows and record are one object and cannot disagree."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), RECORD_KEY: record.to_json()})


def record_of(part: pa.Schema) -> Record:
    """A unit's record, from its part's schema."""
    return Record.from_json(part.metadata[RECORD_KEY].decode())


def parquet(table: pa.Table) -> pa.Buffer:
    """A part as bytes. Statistics and dictionaries only on columns they help: not on images and vectors."""
    texts = ["uri", "status", "reason"]
    statistics = [*texts, "frame_index", "time_s", "track", *QUALITY_COLUMNS]
    return plain_parquet(table, row_group_size=ROW_GROUP, use_dictionary=texts, write_statistics=statistics)


def plain_parquet(table: pa.Table, **options: Any) -> pa.Buffer:
    """A table as bytes; options of `pyarrow.parquet.write_table`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", **options)
    return sink.getvalue()


def remove_rows(store: Store, folder: str, uris: Iterable[str]) -> None:
    """Remove the rows of some inputs from the tables of a folder."""
    removed = pa.array(sorted(uris), pa.string())
    for path in store.paths(folder, ".parquet") if len(removed) else ():
        kept = pc.invert(pc.is_in(store.table(path, ["uri"])["uri"], removed))
        if not pc.any(kept).as_py():
            store.delete(path)
        elif not pc.all(kept).as_py():
            store.publish(path, plain_parquet(store.table(path).filter(kept)))


def publish_by_hash(store: Store, folder: str, table: pa.Table) -> str:
    """Publish a table under the hash of its content: the same batch again is the same object. Returns its path."""
    data = plain_parquet(table)
    path = f"{folder}/{hashlib.sha256(data).hexdigest()[:24]}.parquet"
    store.publish(path, data)
    return path
