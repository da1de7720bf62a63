"""One CSV for each input, as OpenFace 2 or py-feat would write it.

Path: rows of an input -> `csv_columns` -> DEST/csv/<name>-<8 hex>.csv

The name is that of the input's file; the digits tell inputs of one name apart. An input is done when its CSV is there.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import WriteOptions, write_csv

from pipelines.cluster.input_shares import Counts, Share
from pipelines.export.config import ExportConfig
from pipelines.export.csv_columns import INPUT_COLUMNS, openface_table, pyfeat_table
from rigface.dataset.faces import Faces
from rigface.storage import lock
from rigface.storage.store import Store

FOLDER = "csv"
TABLES: dict[str, Callable[..., pa.Table]] = {"openface": openface_table, "pyfeat": pyfeat_table}
MAX_NAME = 80  # characters of an input's name in that of its CSV
UNKNOWN_SIZE = (640, 480)  # px of inputs whose size is not known: they only move pose_T*


def csv_name(uri: str) -> str:
    """The name of an input's CSV without its ending: `clip-1a2b3c4d`."""
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in PurePosixPath(uri).stem)[:MAX_NAME]
    return f"{stem or 'input'}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def inputs_to_do(config: ExportConfig, source: Store, store: Store) -> tuple[int, int]:
    """Number of inputs with faces, at most `limit`, and of those that are not done."""
    done = store.ids(FOLDER, ".csv")
    count = todo = 0
    for uri, _ in _sizes(source):
        count += 1
        todo += csv_name(uri) not in done
        if count == config.limit:
            break
    return count, todo


def _sizes(source: Store) -> Iterator[tuple[str, tuple[int, int]]]:
    """Uri and size in px of each finished input with faces, in one order."""
    for path in sorted(source.paths("inputs", ".parquet")):
        table = source.table(path, ["uri", "faces", "width", "height"])
        for uri, faces, *size in sorted(zip(*(column.to_pylist() for column in table.columns))):
            if faces:
                yield uri, (size[0], size[1]) if all(size) else UNKNOWN_SIZE


class CsvShare:
    """Writes the CSVs of a share of the inputs. One per actor."""

    def __init__(self, config: ExportConfig) -> None:
        self._config, self._faces = config, Faces(config.faces)
        self._store = lock.follow(Store(config.dest))

    def __call__(self, share: Share) -> Iterator[Counts]:
        """Write what is not done, input by input."""
        done = self._store.ids(FOLDER, ".csv")
        sizes: dict[str, Any] = {}
        for number, (uri, size) in enumerate(_sizes(self._faces.store)):
            if self._config.limit and number >= self._config.limit:
                break
            if uri in share and csv_name(uri) not in done:
                sizes[uri] = size
        detector = self._faces.detector
        for uri, rows in self._faces.by_input(INPUT_COLUMNS, sizes.__contains__):
            known = pc.fill_null(rows["confidence"], float("nan")).to_numpy()
            good = rows.filter(pa.array(np.nan_to_num(known) >= self._config.min_confidence))
            table = TABLES[self._config.to](good, detector, *sizes[uri])
            self._store.publish(f"{FOLDER}/{csv_name(uri)}.csv", csv_bytes(table))
            yield {"inputs": 1, "faces": len(table)}


def csv_bytes(table: pa.Table) -> bytes:
    """A table as a CSV whose header has no quotes."""
    head, body = io.StringIO(), io.BytesIO()
    csv.writer(head, lineterminator="\n").writerow(table.column_names)
    write_csv(table, body, WriteOptions(include_header=False, quoting_style="needed"))
    return head.getvalue().encode() + body.getvalue()
