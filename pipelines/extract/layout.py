"""Paths and Parquet encoding of the parts of a dataset."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rigface.storage.store import INTERNAL, sharded
from rigface.types import Quality

ROW_GROUP = 128  # faces: 5 to 10 MB of crops and masks


RECORD_KEY = "rigface.unit"


_QUALITY = tuple(f.name for f in fields(Quality))


def part_path(unit_id: str) -> str:
    """Where a unit's faces are."""
    return sharded("faces", unit_id, ".parquet")


def error_path(unit_id: str) -> str:
    """Where the record of a unit without faces is: an error, or nobody to be seen."""
    return sharded(f"{INTERNAL}/units", unit_id, ".json")


def with_record(table: pa.Table, record: dict[str, Any]) -> pa.Table:
    """The table with a unit's record in its metadata: rows and record are one object and cannot disagree."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), RECORD_KEY: json.dumps(record)})


def record_of(part: pa.Schema) -> dict[str, Any]:
    """A unit's record, from its part's schema."""
    return json.loads(part.metadata[RECORD_KEY.encode()])


def parquet(table: pa.Table) -> pa.Buffer:
    """A part as bytes. Statistics and dictionaries only where they help: not for pictures and vectors."""
    sink = pa.BufferOutputStream()
    texts = ["uri", "status", "reason", "identity"]
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression="zstd",
        use_dictionary=texts,
        write_statistics=[*texts, "frame_index", "time_s", "track", *_QUALITY],
    )
    return sink.getvalue()
