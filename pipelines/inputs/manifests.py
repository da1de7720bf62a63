"""Lists of inputs: text, CSV, Parquet, and S3 Inventory. Read lazily, however long.

Path: `sources._listed` -> `entries` or `inventory` -> uris.

An S3 Inventory is a manifest.json and the data files it names, CSV (gzip, keys percent-encoded) or Parquet: AWS,
"Amazon S3 User Guide", "Locating your inventory list". Listing ten million keys takes ten thousand requests, one
after another; its inventory is a few files. Superseded versions and delete markers are left out.
"""

import codecs
import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from rigface.errors import PlanError

INVENTORY = "/manifest.json"
_KINDS = (".txt", ".csv", ".parquet")


def is_list(name: str) -> bool:
    """True if a file of this name is a list of inputs rather than an input."""
    return os.path.splitext(name)[1].lower() in _KINDS or f"/{name}".endswith(INVENTORY)


def entries(file: BinaryIO, suffix: str) -> Iterator[str]:
    """The entries of a list, unchanged; PlanError, at once, if it is not of its suffix's format or lacks `uri`."""
    if suffix == ".txt":
        text = _text(file, "\n")
        return (line.rstrip("\r\n") for line in text if line.strip())
    return (row["uri"] for row in rows(file, suffix, ["uri"], f"a {suffix} list") if row["uri"])


def rows(
    file: BinaryIO, kind: str, columns: Sequence[str], label: str, optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of a .csv or .parquet table, read lazily; PlanError, at once, if it is none or lacks a column.

    Optional columns are read if they exist; in a .csv every value is text. `label` names the table in the error.
    """
    if kind == ".csv":
        reader = csv.DictReader(_text(file, ""))
        _check(reader.fieldnames or [], columns, label)
        return iter(reader)
    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as e:
        raise PlanError(f"{label} is not a Parquet file: {e}") from e
    names = table.schema_arrow.names
    _check(names, columns, label)
    wanted = [*columns, *(name for name in optional if name in names)]
    return (row for batch in table.iter_batches(4096, columns=wanted) for row in batch.to_pylist())


def _text(file: BinaryIO, newline: str) -> io.TextIOWrapper:
    """The text of a file: UTF-8, or UTF-16 with its mark, as PowerShell saves it."""
    buffered = io.BufferedReader(file)  # type: ignore[type-var]
    is_utf16 = buffered.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if is_utf16:
        return io.TextIOWrapper(buffered, "utf-16", errors="replace", newline=newline)
    return io.TextIOWrapper(buffered, "utf-8-sig", errors="surrogateescape", newline=newline)


def _check(names: Sequence[str], columns: Sequence[str], label: str) -> None:
    if missing := sorted(set(columns) - set(names)):
        raise PlanError(f"{label} needs a column `{'`, `'.join(missing)}`; it has {list(names)}")


def inventory(file: BinaryIO, open_uri: Callable[[str], BinaryIO]) -> Iterator[str]:
    """Uris `s3://bucket/key` of the objects that an S3 Inventory lists, by its manifest.json.

    `open_uri` opens the data files, in the inventory's destination bucket. PlanError at once if it is no inventory that
    can be read; later, if a data file is broken.
    """
    try:
        manifest = json.loads(file.read())
        bucket, file_format = manifest["sourceBucket"], manifest["fileFormat"].upper()
        destination = manifest["destinationBucket"].rpartition(":")[2]
        files = [f"s3://{destination}/{entry['key']}" for entry in manifest["files"]]
        columns = [name.strip() for name in manifest["fileSchema"].split(",")]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise PlanError(f"manifest.json is not that of an S3 Inventory: {type(e).__name__} {e}") from e
    if file_format not in ("CSV", "PARQUET"):
        raise PlanError(f"an inventory in the format {file_format} cannot be read; let it be written as Parquet or CSV")
    if file_format == "CSV" and "Key" not in columns:
        raise PlanError(f"an inventory needs the column Key; this one has {columns}")
    return (
        f"s3://{bucket}/{key}" for path in files for key in _inventory_keys(open_uri(path), file_format, columns, path)
    )


def _inventory_keys(file: BinaryIO, file_format: str, columns: list[str], name: str) -> Iterator[str]:
    if file_format == "PARQUET":
        for row in rows(file, ".parquet", ["key"], f"the inventory file {name}", ("is_latest", "is_delete_marker")):
            if row.get("is_latest") is not False and not row.get("is_delete_marker"):
                yield row["key"]
        return
    at = {column: i for i, column in enumerate(columns)}
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
            for values in csv.reader(text):
                if len(values) != len(columns):
                    raise PlanError(
                        f"{name}: a row of {len(values)} values for the {len(columns)} columns in manifest.json"
                    )
                flags = {key: values[at[key]].lower() for key in ("IsLatest", "IsDeleteMarker") if key in at}
                if flags.get("IsLatest") != "false" and flags.get("IsDeleteMarker") != "true":
                    yield unquote_plus(values[at["Key"]])
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise PlanError(f"cannot read the inventory file {name}: {e}") from e
