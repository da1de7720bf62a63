"""A dataset of faces for readers: its columns, row by row, object by object or input by input.

Path: OUT/faces, OUT/identities -> `Faces` -> pair, evaluate, refine, study, export, the page.

The column `identity` is not stored with the faces: it is joined on the way, and null where identities were not
computed. Datasets of before that have it as a column of faces/ are read, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rigface import schema
from rigface.dataset.identities import FOLDER, Identities, uri_key
from rigface.errors import PlanError
from rigface.storage.store import Store
from rigface.types import DetectorSpec, HeadSpec

READERS = 16  # objects opened at once
BATCH_ROWS = 8192

PART, ROW = "part", "row"  # columns of `Faces.by_input`: number of the object in `parts`, number of the row in it


class Batch(NamedTuple):
    """Some rows of one object."""

    part: str
    first_row: int
    rows: pa.RecordBatch


class _Groups(NamedTuple):
    """(G,) row groups in order of their inputs; one that holds several inputs comes once for each."""

    key: np.ndarray  # uint64 hash of the input
    part: np.ndarray  # int32 number of the object
    group: np.ndarray  # int32 number of the row group in it
    first_row: np.ndarray  # int64 number of its first row
    rows: np.ndarray  # int32


class Faces:
    """The faces of a dataset, in OUT/faces."""

    def __init__(self, out: str | Store) -> None:
        self.store = Store(out) if isinstance(out, str) else out

    @cached_property
    def parts(self) -> list[str]:
        """Paths of the objects of faces/, in one order; PlanError if there are none."""
        parts = sorted(p for p in self.store.paths("faces", ".parquet") if not p.endswith("/schema.parquet"))
        if not parts:
            raise PlanError(f"{self.store.uri}: no faces/ here; make some with `rigface extract`")
        return parts

    @cached_property
    def schema(self) -> pa.Schema:
        """The stored columns, and `identity`; metadata as stored."""
        stored = self.store.schema(self.parts[0])
        if "identity" in stored.names:
            return stored
        return stored.insert(stored.get_field_index("track") + 1, pa.field("identity", pa.string()))

    @cached_property
    def head(self) -> HeadSpec:
        """The head model of the coefficients."""
        return schema.head_of(self.schema)

    @cached_property
    def detector(self) -> DetectorSpec:
        """The detector, with its other networks."""
        return schema.detector_of(self.schema)

    @cached_property
    def identities(self) -> Identities:
        """The person of each track."""
        has_table = next(iter(self.store.paths(FOLDER, ".parquet")), None) is not None
        if not has_table and "identity" in self.store.schema(self.parts[0]).names:
            return Identities(self.store.table(path, ["uri", "track", "identity"]) for path in self.parts)
        return Identities.load(self.store)

    def table(self, part: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one object, or some of their columns, in the order asked for."""
        return self._joined(self.store.table(part, self._stored(columns)), columns)

    def batches(self, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS) -> Iterator[Batch]:
        """All rows, at most `rows` at a time, object by object in the order of `parts`."""
        for part in self.parts:
            with self.store.open(part) as file:
                first = 0
                for batch in pq.ParquetFile(file).iter_batches(rows, columns=self._stored(columns)):
                    joined = self._joined(pa.Table.from_batches([batch]), columns).combine_chunks()
                    yield Batch(part, first, joined.to_batches()[0])
                    first += len(batch)

    def by_input(
        self, columns: Sequence[str], wanted: Callable[[str], bool] = lambda uri: True
    ) -> Iterator[tuple[str, pa.Table]]:
        """The inputs (uris) and all their rows, each input once, wherever its rows lie.

        Only the wanted inputs are read. The tables have the columns `part` and `row`, too: where each row lies. In
        memory are 28 bytes per row group (one or more per unit of work), and the rows of a few inputs.
        """
        columns = list(dict.fromkeys(["uri", *columns]))
        groups = self._groups(wanted)
        for start, stop in _windows(groups):
            window = _Groups(*(a[start:stop] for a in groups))
            keys = set(window.key.tolist())
            table = self._rows(window, columns).combine_chunks()  # `take` of many chunks is slow
            encoded = table["uri"].combine_chunks().dictionary_encode()
            codes, uris = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
            order = np.argsort(codes, kind="stable")
            bounds = np.searchsorted(codes[order], np.arange(len(uris) + 1))
            for uri, (first, last) in zip(uris, itertools.pairwise(bounds.tolist())):
                if uri_key(uri) in keys:  # a row group of one input may hold others, too
                    yield uri, table.take(pa.array(order[first:last]))

    def _stored(self, columns: Sequence[str] | None) -> list[str]:
        """The columns to read for these."""
        names = self.schema.names if columns is None else columns
        if "identity" in names:
            names = [*(name for name in names if name != "identity"), "uri", "track"]
        return list(dict.fromkeys(names))

    def _joined(self, table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
        """The table with the columns asked for."""
        columns = self.schema.names if columns is None else columns
        if "identity" in columns:
            names = self.identities.of(table["uri"], table["track"].to_numpy())
            table = table.append_column(pa.field("identity", pa.string()), names)
        if missing := [name for name in columns if name not in table.column_names]:
            raise PlanError(
                f"{self.store.uri} has no column {', '.join(missing)}: it was extracted with other --columns"
            )
        return table.select(list(columns))

    def _groups(self, wanted: Callable[[str], bool]) -> _Groups:
        """The row groups of the wanted inputs; inputs in the order of their first row, rows in the order of parts."""
        found: list[tuple[int, int, int, int, int]] = []
        with ThreadPoolExecutor(READERS) as pool:
            for part, groups in enumerate(pool.map(self._inputs_of, self.parts)):
                first = 0
                for group, (uris, rows) in enumerate(groups):
                    found += [(uri_key(uri), part, group, first, rows) for uri in uris if wanted(uri)]
                    first += rows
        of = np.array(found, [(n, t) for n, t in zip(_Groups._fields, ("u8", "i4", "i4", "i8", "i4"))])
        _, first_at, inverse = np.unique(of["key"], return_index=True, return_inverse=True)
        of = of[np.argsort(first_at[inverse], kind="stable")]
        return _Groups(*(of[name] for name in _Groups._fields))

    def _inputs_of(self, part: str) -> list[tuple[list[str], int]]:
        """The uris and the number of rows of each row group of an object, by its index if that has them."""
        with self.store.open(part) as opened:
            file = pq.ParquetFile(opened)
            about, found = file.metadata, []
            at = file.schema.names.index("uri")
            for number in range(about.num_row_groups):
                group = about.row_group(number)
                statistics = group.column(at).statistics
                if statistics is not None and statistics.has_min_max and statistics.min == statistics.max:
                    uris = [statistics.min]
                else:
                    uris = pc.unique(file.read_row_group(number, ["uri"])["uri"]).to_pylist()
                found.append((uris, group.num_rows))
        return found

    def _rows(self, groups: _Groups, columns: list[str]) -> pa.Table:
        """The rows of these row groups, with `part` and `row`; a group that comes twice is read once."""
        distinct = sorted(set(zip(*(a.tolist() for a in groups[1:]))))
        by_part = [(part, list(of)) for part, of in itertools.groupby(distinct, key=lambda group: group[0])]

        def read(job: tuple[int, list[tuple[int, int, int, int]]]) -> pa.Table:
            part, of = job
            with self.store.open(self.parts[part]) as file:
                rows = pq.ParquetFile(file).read_row_groups([group for _, group, _, _ in of], self._stored(columns))
            at = np.concatenate([np.arange(first, first + count, dtype=np.int32) for _, _, first, count in of])
            rows = self._joined(rows, columns).append_column(PART, pa.array(np.full(len(at), part, np.int32)))
            return rows.append_column(ROW, pa.array(at))

        with ThreadPoolExecutor(min(READERS, len(by_part))) as pool:
            return pa.concat_tables(pool.map(read, by_part), promote_options="default")


def _windows(groups: _Groups) -> Iterator[tuple[int, int]]:
    """Ranges of groups to be read together: whole inputs, up to about `BATCH_ROWS` rows."""
    ends = np.flatnonzero(np.diff(groups.key, append=~groups.key[-1:])) + 1  # of each input
    rows = np.cumsum(groups.rows)[ends - 1]
    start, begun = 0, 0
    for end, so_far in zip(ends.tolist(), rows.tolist()):
        if so_far - begun >= BATCH_ROWS or end == len(groups.key):
            yield start, end
            start, begun = end, so_far
