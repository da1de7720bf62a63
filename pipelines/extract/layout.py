"""Paths and Parquet encoding of a dataset's objects."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.extract.unit import Record, records_json, records_of_json
from rigface.storage.store import INTERNAL, Store, sharded
from rigface.types import Quality

ROW_GROUP = 128  # faces at most: 5 to 10 MB of crops and masks
RECORDS_KEY = b"rigface.units"
QUALITY_COLUMNS = tuple(f.name for f in fields(Quality))


def part_path(shard: str) -> str:
    """Path of a shard's faces."""
    return sharded("faces", shard, ".parquet")


def error_path(shard: str) -> str:
    """Path of the records of a shard without faces: errors, or frames that show no face."""
    return sharded(f"{INTERNAL}/units", shard, ".json")


def with_records(table: pa.Table, records: Iterable[Record]) -> pa.Table:
    """The table with the records of its units, in the order of its rows, in its metadata: both are one object and
    cannot disagree.
    """
    return table.replace_schema_metadata({**(table.schema.metadata or {}), RECORDS_KEY: records_json(records)})


def records_of(part: pa.Schema) -> list[Record]:
    """The records of a shard's units, from its schema."""
    return records_of_json((part.metadata or {}).get(RECORDS_KEY, b"[]"))


def rows_of(table: pa.Table, records: Sequence[Record]) -> list[pa.Table]:
    """The rows of each unit of a shard."""
    starts = accumulate((record.faces for record in records), initial=0)
    return [table.slice(start, record.faces) for start, record in zip(starts, records)]


def parquet(table: pa.Table) -> pa.Buffer:
    """A shard as bytes. No row group has faces of two units, so that the rows of an input are found by statistics.

    Statistics and dictionaries only on columns they help: not on images and vectors.
    """
    texts = ["uri", "status", "reason"]
    statistics = [*texts, "frame_index", "time_s", "track", *QUALITY_COLUMNS]
    sink, options = pa.BufferOutputStream(), {"use_dictionary": texts, "write_statistics": statistics}
    with pq.ParquetWriter(sink, table.schema, compression="zstd", **options) as writer:
        for rows in filter(len, rows_of(table, records_of(table.schema)) or [table]):
            writer.write_table(rows, row_group_size=ROW_GROUP)
    return sink.getvalue()


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
