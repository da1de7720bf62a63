"""Inspection of a dataset of faces: one HTML page, `rigface inspect OUT`.

Path: OUT/faces/**/*.parquet, OUT/identities, OUT/inputs/*.parquet -> statistics (one pass, bounded memory)
-> gallery (some dozens of rows with pictures) -> report -> OUT/inspect.html. Reads any file system of pyarrow; writes
only the page.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import run_info
from pipelines.edit.config import STRIP_NAME
from pipelines.inspect import gallery
from pipelines.inspect.cards import SHOWN_PEOPLE, SeenPerson
from pipelines.inspect.inputs import COLUMNS, InputStatistics
from pipelines.inspect.people import RowPosition
from pipelines.inspect.report import DatasetFiles, Gallery, document
from pipelines.inspect.statistics import BATCH_ROWS, FLAGS, FaceStatistics, person_name
from rigface import schema
from rigface.dataset.identities import Identities
from rigface.errors import BadInput, PlanError
from rigface.storage.store import Store
from rigface.types import DetectorSpec, FaceParams, HeadSpec

PAGE_NAME = "inspect.html"
LEAST_TRUSTED = 6
_READERS = 8  # files read at once
_AHEAD = 16  # files read ahead
_AHEAD_ROWS = 50_000  # files with more rows are read batch by batch, when their turn comes
_SHOWN = [
    "uri", "frame_index", "time_s", "track", "identity", "confidence", "yaw_deg", "pitch_deg", "roll_deg",
    "face_size_px", *FLAGS, "landmarks", "crop", "mask", *FaceParams.__dataclass_fields__,
]  # fmt: skip


Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)
_Opened = tuple[pa.Schema, list[pa.RecordBatch] | None] | Exception


@dataclass
class Dataset:
    """The files of one dataset; unreadable ones are left out and listed in `notices`."""

    store: Store
    files: list[str] = field(default_factory=list)  # of faces, those that were counted
    notices: list[str] = field(default_factory=list)

    def open(self, path: str) -> pq.ParquetFile:
        return pq.ParquetFile(self.store.open(path), pre_buffer=False)

    @cached_property
    def identities(self) -> Identities:
        return Identities.load(self.store)

    def named(self, rows: Rows) -> Rows:
        """The rows with their identities, which older datasets have as a column already."""
        if "identity" in rows.schema.names or "track" not in rows.schema.names:
            return rows
        return rows.append_column("identity", self.identities.of(rows["uri"], rows["track"].to_numpy()))

    def leave_out(self, path: str, problem: object, kept: int = 0) -> None:
        text = (str(problem) or type(problem).__name__).splitlines()[0]
        self.notices.append(f"{path} is left out{f' from row {kept:,} on' if kept else ''}: {text}")

    def tables(self, paths: list[str], columns: list[str]) -> Iterator[tuple[str, pa.Schema, Iterator[pa.RecordBatch]]]:
        """Path, schema and batches of every file, in order. Small files are read ahead, several at once: a dataset has
        one per unit of work, and on S3 each costs some round trips."""
        with ThreadPoolExecutor(_READERS) as pool:
            waiting: deque[tuple[str, Future[_Opened]]] = deque()
            for path in [*paths, *[""] * _AHEAD]:
                if path:
                    waiting.append((path, pool.submit(self._read, path, columns)))
                if waiting and (not path or len(waiting) > _AHEAD):
                    first, future = waiting.popleft()
                    opened = future.result()
                    if isinstance(opened, Exception):
                        self.leave_out(first, opened)
                    else:
                        yield first, opened[0], self._batches(first, columns) if opened[1] is None else iter(opened[1])

    def _read(self, path: str, columns: list[str]) -> _Opened:
        """Schema and batches of a file; None for the batches of one too large to be read ahead."""
        try:
            with self.open(path) as parquet:
                if parquet.metadata.num_rows > _AHEAD_ROWS:
                    return parquet.schema_arrow, None
                present = [name for name in columns if name in parquet.schema_arrow.names]
                return parquet.schema_arrow, list(parquet.iter_batches(batch_size=BATCH_ROWS, columns=present))
        except (OSError, pa.ArrowException) as problem:
            return problem

    def _batches(self, path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Batches of a file; a damaged one is kept up to the damage, with a notice."""
        kept = 0
        try:
            with self.open(path) as parquet:
                present = [name for name in columns if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=present):
                    yield batch
                    kept += len(batch)
        except (OSError, pa.ArrowException) as problem:
            self.leave_out(path, problem, kept)


def write(out: str, samples: int = 24) -> str:
    """Write the page of a dataset, `samples` faces in its gallery, into its folder; the page's address.

    BadInput if there is no dataset.
    """
    data = Dataset(Store(out))
    face_files, input_files = (sorted(data.store.paths(part, ".parquet")) for part in ("faces", "inputs"))
    if not face_files and not input_files:
        reason = f"no dataset at {out}: want Parquet files in faces/ and inputs/; run `rigface extract` first"
        raise BadInput(reason, "inspect")
    inputs = _count_inputs(data, input_files)
    faces, schema_name = _count_faces(data, face_files, samples)
    settings = _settings(data.store)
    shown, seen = _gallery(data, faces, samples, str(settings.get("head_folder") or ""))
    infos = data.store.fs.get_file_info([data.store.at(path) for path in face_files + input_files])
    about = DatasetFiles(
        place=data.store.uri,
        written=max((info.mtime for info in infos if info.mtime), default=None),
        file_bytes=sum(info.size or 0 for info in infos),
        face_files=len(data.files),
        schema=schema_name,
        settings=settings,
        notices=data.notices,
    )
    edits = data.store.read(STRIP_NAME) if data.store.exists(STRIP_NAME) else None
    body = document(faces, inputs, shown, about, seen, edits).encode("utf-8", "replace")
    data.store.publish(PAGE_NAME, body)
    return f"{data.store.uri}/{PAGE_NAME}"


def _count_inputs(data: Dataset, paths: list[str]) -> InputStatistics:
    statistics = InputStatistics()
    for _, _, batches in data.tables(paths, COLUMNS):
        for batch in batches:
            statistics.add(batch)
    return statistics


def _count_faces(data: Dataset, paths: list[str], samples: int) -> tuple[FaceStatistics, str]:
    """One pass over the number columns, and the schema's name. Files of another head model than the first file's are
    left out, with a notice."""
    statistics: FaceStatistics | None = None
    name = "–"
    for path, described, batches in data.tables(paths, FaceStatistics.columns()):
        try:
            head, detector = schema.head_of(described), schema.detector_of(described)
        except ValueError as problem:
            data.leave_out(path, problem)
            continue
        if statistics is None:
            statistics = FaceStatistics(head, detector, keep=max(samples, 8))
            name = (described.metadata or {}).get(b"rigface.schema", b"").decode("utf-8", "replace")
        if (head.name, head.version) != (statistics.head.name, statistics.head.version):
            expected = f"{statistics.head.name} {statistics.head.version}"
            data.leave_out(path, f"its head model is {head.name} {head.version}, not {expected}")
            continue
        row = 0
        for batch in batches:
            statistics.add(data.named(batch), len(data.files), row)
            row += len(batch)
        if row:
            data.files.append(path)
    return statistics or FaceStatistics(HeadSpec("–", "", 0, 0, 0), DetectorSpec("–", "", 0)), name


def _gallery(data: Dataset, faces: FaceStatistics, samples: int, head_folder: str) -> tuple[Gallery, list[SeenPerson]]:
    """The faces on show, and a small picture of each of the most seen persons."""
    if not faces.ok:
        return Gallery(), []
    candidates = faces.candidates()
    least = faces.least_trusted(min(LEAST_TRUSTED, samples)) if len(faces.people) > LEAST_TRUSTED else []
    varied = gallery.choose(candidates, samples, without=set(least))
    most_seen = faces.people.most_seen(SHOWN_PEOPLE)
    head, why_not = gallery.load_head(faces.head, head_folder or None)

    def drawn(positions: list[RowPosition]) -> list[gallery.Strip]:
        rows, _ = _rows(data, positions, _SHOWN)
        return gallery.strips(rows, head, faces.head) if len(rows) else []

    varied_strips, least_strips = drawn(varied), drawn(least)
    small, positions = _rows(data, [p.position for p in most_seen], ["uri", "track", "identity", "crop", "mask"])
    thumbs = dict(zip(positions, gallery.thumbs(small)))
    names = {
        at: person_name(*(small[n][i].as_py() for n in ("identity", "uri", "track"))) for i, at in enumerate(positions)
    }
    uris = gallery.encoded(varied_strips + least_strips)
    shown = Gallery(varied_strips, least_strips, uris, why_not)
    return shown, [
        SeenPerson(names[p.position], p.frames, thumbs[p.position]) for p in most_seen if p.position in names
    ]


def _rows(data: Dataset, positions: list[RowPosition], columns: list[str]) -> tuple[pa.Table, list[RowPosition]]:
    """Rows with their pictures in the order of `positions`, and their positions; unreadable files are left
    out, with a notice."""
    tables: dict[RowPosition, pa.Table] = {}
    for file in sorted({position.file for position in positions}):
        wanted = [position.row for position in positions if position.file == file]
        try:
            with data.open(data.files[file]) as parquet:
                for row, table in gallery.fetch(parquet, wanted, columns).items():
                    tables[RowPosition(file, row)] = data.named(table)
        except (OSError, pa.ArrowException) as problem:
            data.leave_out(f"{data.files[file]} (pictures)", problem)
    kept = [position for position in positions if position in tables]
    rows = [tables[position] for position in kept] or [pa.table({})]
    return pa.concat_tables(rows, promote_options="default"), kept


def _settings(store: Store) -> dict[str, Any]:
    """Settings of the extraction as flat pairs; empty if there is no record of them."""
    about = None
    with suppress(PlanError):
        about = run_info.load(store)
    if about is None:
        return {}
    pairs = dict(about.get("settings", {}))
    pairs |= {name: about[name] for name in ("config", "created", "commit") if about.get(name)}
    pairs["runs"] = len(about.get("runs", []))
    return pairs | about.get("packages", {})
