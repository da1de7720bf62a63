"""`rigface inspect OUT`: one HTML page that lets a person see what a dataset of faces holds.

Path: OUT/faces/**/*.parquet, OUT/inputs/*.parquet -> census (numbers, one pass, bounded memory) -> gallery (some dozens
of rows with pictures) -> document -> OUT/inspect.html. Reads any file system pyarrow knows; writes nothing but the page.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import run_info
from pipelines.edit.config import STRIP_NAME
from pipelines.inspect import gallery
from pipelines.inspect.cards import SHOWN_PEOPLE
from pipelines.inspect.document import DatasetFiles, Gallery, document
from pipelines.inspect.inputs import InputCensus
from pipelines.inspect.statistics import BATCH_ROWS, FLAGS, FaceCensus, Spot
from rigface import schema
from rigface.errors import BadInput
from rigface.storage.store import Store
from rigface.types import DetectorSpec, FaceParams, HeadSpec

PAGE_NAME = "inspect.html"
LEAST_TRUSTED = 6
_READERS = 8  # files read at once
_AHEAD = 16  # files read ahead
_AHEAD_ROWS = 50_000  # files with more rows are read batch by batch, when their turn comes
_SHOWN = [
    "uri", "frame_index", "time_s", "track", "identity", "confidence", "yaw_deg", "pitch_deg", "roll_deg", "face_size_px",
    *FLAGS, "landmarks", "crop", "mask", *FaceParams.__dataclass_fields__,
]  # fmt: skip


_Opened = tuple[pa.Schema, list[pa.RecordBatch] | None] | Exception


@dataclass
class Dataset:
    """The files of one dataset; what cannot be read of them is said in `notices` and left out."""

    store: Store
    files: list[str] = field(default_factory=list)  # of faces, those that were counted
    notices: list[str] = field(default_factory=list)

    def open(self, path: str) -> pq.ParquetFile:
        return pq.ParquetFile(self.store.open(path), pre_buffer=False)

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
        """Batches of a file; one that breaks off is kept as far as it goes, and said so."""
        kept = 0
        try:
            with self.open(path) as parquet:
                present = [name for name in columns if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=present):
                    yield batch
                    kept += len(batch)
        except (OSError, pa.ArrowException) as problem:
            self.leave_out(path, problem, kept)


def write(out: str, *, page: str | None = None, samples: int = 24, seed: int = 0) -> str:
    """Look through a dataset and write the page about it.

    Args:
        out: the dataset: a folder or s3://bucket/prefix.
        page: local path of the page; by default `inspect.html` beside the dataset's folders.
        samples: faces in the gallery.
        seed: which ones.

    Returns:
        Where the page is.

    Raises:
        BadInput: there is no dataset at `out`.
        ValueError: no sample is asked for.
    """
    if samples < 1:
        raise ValueError(f"samples: want at least 1, got {samples}")
    data = Dataset(Store(out))
    face_files, input_files = (sorted(data.store.paths(part, ".parquet")) for part in ("faces", "inputs"))
    if not face_files and not input_files:
        raise BadInput(
            f"no dataset at {out}: want Parquet files in faces/ and inputs/; run `rigface extract` first", "inspect"
        )
    inputs = _count_inputs(data, input_files)
    faces, schema_name = _count_faces(data, face_files, samples, seed)
    settings = _settings(data.store)
    shown, thumbs = _gallery(data, faces, samples, str(settings.get("head") or ""))
    sizes, times = _sizes_and_times(data.store, face_files + input_files)
    about = DatasetFiles(
        place=data.store.uri,
        written=max(times, default=None),
        file_bytes=sum(sizes),
        face_files=len(data.files),
        schema=schema_name,
        settings=settings,
        notices=data.notices,
    )
    edits = data.store.read(STRIP_NAME) if data.store.exists(STRIP_NAME) else None
    body = document(faces, inputs, shown, about, thumbs, edits).encode("utf-8", "replace")
    if page is None:
        data.store.publish(PAGE_NAME, body)
        return f"{data.store.uri}/{PAGE_NAME}"
    return _save(os.path.abspath(os.path.expanduser(page)), body)


def _count_inputs(data: Dataset, paths: list[str]) -> InputCensus:
    census = InputCensus()
    for _, _, batches in data.tables(paths, census.columns()):
        for batch in batches:
            census.add(batch)
    return census


def _count_faces(data: Dataset, paths: list[str], samples: int, seed: int) -> tuple[FaceCensus, str]:
    """One pass over the number columns, and the schema's name. Files of another head model than the first file's are
    left out, and said so."""
    census: FaceCensus | None = None
    name = "–"
    for path, described, batches in data.tables(paths, FaceCensus.columns()):
        try:
            head, detector = schema.head_of(described), schema.detector_of(described)
        except ValueError as problem:
            data.leave_out(path, problem)
            continue
        if census is None:
            census = FaceCensus(head, detector, keep=max(samples, 8), seed=seed)
            name = (described.metadata or {}).get(b"rigface.schema", b"").decode("utf-8", "replace")
        if (head.name, head.version) != (census.head.name, census.head.version):
            mine = f"{census.head.name} {census.head.version}"
            data.leave_out(path, f"its head model is {head.name} {head.version}, not {mine}")
            continue
        row = 0
        for batch in batches:
            census.add(batch, len(data.files), row)
            row += len(batch)
        if row:
            data.files.append(path)
    return census or FaceCensus(HeadSpec("–", "", 0, 0, 0), DetectorSpec("–", "", 0)), name


def _sizes_and_times(store: Store, paths: list[str]) -> tuple[list[int], list[datetime]]:
    infos = store.fs.get_file_info([store.at(path) for path in paths])
    return [info.size or 0 for info in infos], [info.mtime for info in infos if info.mtime]


def _gallery(data: Dataset, faces: FaceCensus, samples: int, head_folder: str) -> tuple[Gallery, dict[str, str]]:
    """The faces on show, and a small picture of each of the most seen persons."""
    if not faces.ok:
        return Gallery(), {}
    candidates = faces.candidates()
    least = faces.least_trusted(min(LEAST_TRUSTED, samples)) if len(faces.people) > LEAST_TRUSTED else []
    varied = gallery.choose(candidates, samples, without=set(least))
    seen = {name: person.spot for name, person in faces.most_seen(SHOWN_PEOPLE) if person.spot}
    head, why_not = gallery.load_head(faces.head, head_folder or None)

    def drawn(spots: list[Spot]) -> list[gallery.Strip]:
        rows, _ = _rows(data, spots, _SHOWN)
        return gallery.strips(rows, head, faces.head) if len(rows) else []

    varied_strips, least_strips = drawn(varied), drawn(least)
    small, spots = _rows(data, list(seen.values()), ["crop", "mask"])
    thumbs = dict(zip(spots, gallery.thumbs(small)))
    uris = gallery.encoded(varied_strips + least_strips)
    shown = Gallery(varied_strips, least_strips, uris, why_not)
    return shown, {name: thumbs[spot] for name, spot in seen.items() if spot in thumbs}


def _rows(data: Dataset, spots: list[Spot], columns: list[str]) -> tuple[pa.Table, list[Spot]]:
    """Rows with their pictures, in the order asked, and which those are: a file whose pictures cannot be read is said."""
    found: dict[Spot, pa.Table] = {}
    for file in sorted({spot.file for spot in spots}):
        wanted = [spot.row for spot in spots if spot.file == file]
        try:
            with data.open(data.files[file]) as parquet:
                found |= {Spot(file, row): table for row, table in gallery.fetch(parquet, wanted, columns).items()}
        except (OSError, pa.ArrowException) as problem:
            data.leave_out(f"{data.files[file]} (pictures)", problem)
    kept = [spot for spot in spots if spot in found]
    empty = pa.table({})
    return pa.concat_tables([found[s] for s in kept], promote_options="default") if kept else empty, kept


def _settings(store: Store) -> dict[str, Any]:
    """What the dataset was made with, as flat pairs; nothing if that was not written down."""
    try:
        about = run_info.load(store)
    except ValueError:
        about = None
    if about is None:
        return {}
    pairs = dict(about.get("settings", {}))
    pairs |= {name: about[name] for name in ("config", "created", "commit") if about.get(name)}
    pairs["runs"] = len(about.get("runs", []))
    return pairs | about.get("packages", {})


def _save(path: str, body: bytes) -> str:
    """Write aside and rename: an open page is never half a page."""
    aside = f"{path}.{os.getpid()}.part"
    with open(aside, "wb") as file:
        file.write(body)
    os.replace(aside, path)
    return path
