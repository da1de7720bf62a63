"""Lists of inputs: text, CSV, Parquet, and the inventory that S3 makes of a bucket. Read as they are needed, however long.

Path: `sources._listed` -> entries or `inventory` -> uris.

An S3 Inventory is a manifest.json and the data files it names, CSV (gzip, keys percent-encoded) or Parquet: AWS, "Amazon S3
User Guide", "Locating your inventory list". Listing ten million keys takes ten thousand requests, one after another; its
inventory is a few files. Superseded versions and delete markers are left out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO
from urllib.parse import unquote_plus

from rigface.errors import PlanError

INVENTORY = "/manifest.json"
_KINDS = (".txt", ".csv", ".parquet")


def is_list(name: str) -> bool:
    """Whether a file of this name is a list of inputs rather than an input."""
    return os.path.splitext(name)[1].lower() in _KINDS or f"/{name}".endswith(INVENTORY)


def entries(file: BinaryIO, suffix: str) -> Iterator[str]:
    """What a list says, one by one, as it stands there.

    Raises:
        PlanError: at once: it has no column `uri`, or is not what its suffix says.
    """
    if suffix == ".txt":
        return _lines(file)
    return (row["uri"] for row in rows(file, suffix, ["uri"], f"a {suffix} list") if row["uri"])


def _lines(file: BinaryIO) -> Iterator[str]:
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="\n")
    return (line for line in (raw.rstrip("\r\n") for raw in text) if line.strip())


def rows(
    file: BinaryIO, kind: str, columns: Sequence[str], what: str, more: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of a table, as they are needed; of a .csv every value is text.

    Args:
        kind: `.csv` or `.parquet`.
        columns: that have to be there; `more`: that may be, and are read where they are.
        what: the table is, for the error.

    Raises:
        PlanError: at once: it is no such table, or lacks a column.
    """
    if kind == ".csv":
        reader = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=""))
        _check(reader.fieldnames or [], columns, what)
        return iter(reader)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as e:
        raise PlanError(f"{what} is not a Parquet file: {e}") from e
    have = table.schema_arrow.names
    _check(have, columns, what)
    wanted = [*columns, *(name for name in more if name in have)]
    return (row for batch in table.iter_batches(4096, columns=wanted) for row in batch.to_pylist())


def _check(have: Sequence[str], columns: Sequence[str], what: str) -> None:
    if missing := sorted(set(columns) - set(have)):
        raise PlanError(f"{what} needs a column `{'`, `'.join(missing)}`; it has {list(have)}")


def inventory(file: BinaryIO, open_uri: Callable[[str], BinaryIO]) -> Iterator[str]:
    """Addresses of the objects that an S3 Inventory lists, `s3://bucket/key`.

    Args:
        file: its manifest.json.
        open_uri: opens the data files, which lie in the inventory's destination bucket.

    Raises:
        PlanError: at once: it is none, or one in a format or without a column that we need; later: a data file is broken.
    """
    try:
        manifest = json.loads(file.read())
        bucket, form = manifest["sourceBucket"], manifest["fileFormat"].upper()
        where = manifest["destinationBucket"].rpartition(":")[2]
        files = [f"s3://{where}/{one['key']}" for one in manifest["files"]]
        columns = [name.strip() for name in manifest["fileSchema"].split(",")]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise PlanError(f"manifest.json is not that of an S3 Inventory: {type(e).__name__} {e}") from e
    if form not in ("CSV", "PARQUET"):
        raise PlanError(f"an inventory in the format {form} cannot be read; have S3 make it as Parquet or CSV")
    if form == "CSV" and "Key" not in columns:
        raise PlanError(f"an inventory needs the column Key; this one has {columns}")
    return (f"s3://{bucket}/{key}" for one in files for key in _inventory_keys(open_uri(one), form, columns, one))


def _inventory_keys(file: BinaryIO, form: str, columns: list[str], name: str) -> Iterator[str]:
    if form == "PARQUET":
        for row in rows(file, ".parquet", ["key"], f"the inventory file {name}", ("is_latest", "is_delete_marker")):
            if row.get("is_latest") is not False and not row.get("is_delete_marker"):
                yield row["key"]
        return
    at = {column: i for i, column in enumerate(columns)}
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
            for values in csv.reader(text):
                if len(values) != len(columns):
                    raise PlanError(f"{name}: a row of {len(values)} values, manifest.json says {len(columns)}")
                said = {key: values[at[key]].lower() for key in ("IsLatest", "IsDeleteMarker") if key in at}
                if said.get("IsLatest") != "false" and said.get("IsDeleteMarker") != "true":
                    yield unquote_plus(values[at["Key"]])
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise PlanError(f"cannot read the inventory file {name}: {e}") from e
