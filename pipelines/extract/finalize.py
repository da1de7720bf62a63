"""Finalize an input whose units are all done: join its tracks across chunks and make its row of `OUT/inputs/`.

Path: records of an input's units -> join_tracks (long videos only) -> summarize_input -> InputFinalizer -> OUT/inputs.

Tracks are numbered within their chunk when a unit is written. For an input of several chunks they are joined across
each border and renumbered, and the shards in which a number changes are written again, whole; nothing else is in them
(`plan.bundles`). The numbers a unit had before are kept in its record (`numbered`), so doing it twice, or being killed
in between, gives the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.extract.dataset import FaceDataset
from pipelines.extract.layout import parquet, part_path, rows_of, with_records
from pipelines.extract.plan import Plan, units_of
from pipelines.extract.summary import InputRow, InputStatus
from pipelines.extract.unit import Record
from rigface.face.detection.tracking import MAX_GAP, TrackSummary, number_tracks
from rigface.face.identity.dlib_embedding import same_person_distance
from rigface.storage import lock
from rigface.storage.store import Store

FLUSH_S, FLUSH_ROWS = 20.0, 1000  # rows are published this often; what a kill loses is made again
THREADS = 8  # reading a few columns of the parts of a long video is mostly waiting


class InputFinalizer:
    """Finalizes the inputs of a run, on threads, and publishes their rows in batches.

    `on_done` is called with each row, on the caller's thread.
    """

    def __init__(self, dataset: FaceDataset, config: str, on_done: Callable[[InputRow], None], part: str = "") -> None:
        self._dataset, self._config, self._on_done, self._part = dataset, config, on_done, part
        self._threads = ThreadPoolExecutor(THREADS)
        self._running: list[Future[InputRow]] = []
        self._rows: list[InputRow] = []  # not yet published
        self._flushed = time.monotonic()

    def __enter__(self) -> InputFinalizer:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def add(self, plan: Plan, records: list[Record] | None = None) -> None:
        """Finalize an input: at once if `records` are all its records, else from its shards, on a thread."""
        if len(plan.chunks) == 0 or (len(plan.chunks) == 1 and records):
            self._done(summarize_input(plan, records or []))
        else:
            task = self._threads.submit(finalize_input, self._dataset.store.uri, plan, self._config, self._part)
            self._running.append(task)

    def flush(self, wait: bool = False) -> None:
        """Publish finished rows if it is time to; `wait`: all rows, now."""
        self._running, tasks = [], self._running
        for task in tasks:
            if wait or task.done():
                self._done(task.result())
            else:
                self._running.append(task)
        if wait or len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._flushed > FLUSH_S:
            self._dataset.add_inputs(self._rows)
            self._rows, self._flushed = [], time.monotonic()

    def _done(self, row: InputRow) -> None:
        self._rows.append(row)
        self._on_done(row)


def summarize_input(plan: Plan, records: list[Record], tracks: int | None = None) -> InputRow:
    """The row of one input from the records of its units, none of an error; `tracks`: their number after joining."""
    records = sorted(records, key=lambda r: r.index)
    cause: Record | Plan = next((r for r in records if r.status != "ok"), plan)
    faces = sum(r.faces for r in records)
    status: InputStatus = "ok" if faces else "no_face"
    if all([r.status == "error" for r in records] or [plan.status == "error"]):
        status = "error"
    elif cause.status != "ok":
        status = "partial"
    with_frames = [r for r in records if r.last_frame >= 0]
    last_frame = max((r.last_frame for r in with_frames), default=-1)
    is_whole = status in ("ok", "no_face")
    steps = {step for r in records for step in r.seconds}
    return InputRow(
        uri=plan.uri,
        kind=plan.kind,
        status=status,
        stage=cause.stage,
        reason=cause.reason,
        frames=sum(r.frames for r in records),
        faces=faces,
        tracks=sum(r.tracks for r in records) if tracks is None else tracks,
        shown_frames=plan.shown_frames if is_whole and plan.shown_frames else last_frame + 1,
        duration_s=max((r.last_time_s for r in with_frames), default=None),
        width=plan.width or next((r.width for r in with_frames), None),
        height=plan.height or next((r.height for r in with_frames), None),
        bytes=plan.bytes,
        sha256=plan.sha256 or None,
        chunks=len(plan.chunks),
        stage_seconds=[(step, sum(r.seconds.get(step, 0.0) for r in records)) for step in sorted(steps)],
    )


def finalize_input(out: str, plan: Plan, config: str, part: str = "") -> InputRow:
    """Join the tracks of an input whose units are all done; returns its row. `part` is as in `lock.hold`."""
    dataset = FaceDataset(lock.follow(Store(out), part))
    names = dict.fromkeys(unit.shard for unit in units_of(plan, config))
    shards = {name: [r for r in dataset.records(name) if r.uri == plan.uri] for name in names}
    tracks = join_tracks(dataset.store, plan.rate, shards) if len(plan.chunks) > 1 else None
    return summarize_input(plan, [record for records in shards.values() for record in records], tracks)


def join_tracks(store: Store, rate: float | None, shards: Mapping[str, list[Record]]) -> int:
    """Number the tracks of a cut video, whose shards hold these units, from start to end; returns their number."""
    found = [summary for name, records in shards.items() for summary in _summaries(store, name, records)]
    records = [record for of_shard in shards.values() for record in of_shard]
    order = sorted(range(len(records)), key=lambda k: records[k].index)
    chunks = [found[k] for k in order]
    # Unseen for MAX_GAP frames is seen again one later; half a frame more, because frame times jitter.
    widths = {len(track.identity) for chunk in chunks for track in chunk if track.identity is not None} or {0}
    numbers = number_tracks(chunks, (MAX_GAP + 1.5) / (rate or 25), same_person_distance(*widths))
    ids = {records[k].unit_id: of_chunk for k, of_chunk in zip(order, numbers)}
    for name, of_shard in shards.items():
        if any(ids[r.unit_id] != dict(_numbered(r, ids[r.unit_id])) for r in of_shard):
            _renumber(store, name, of_shard, ids)
    return len({track for of_chunk in numbers for track in of_chunk.values()})


def _numbered(record: Record, local: Iterable[int]) -> list[tuple[int, int]]:
    """The present numbers of a unit's tracks: (in the chunk, in the file)."""
    return record.numbered or [(i, i) for i in local]


def _summaries(store: Store, shard: str, records: list[Record]) -> list[list[TrackSummary]]:
    """The tracks of each unit of a shard."""
    if not any(record.faces for record in records):
        return [[] for _ in records]
    table = store.table(part_path(shard), ["track", "time_s", "box", "identity_vector"])
    return [_tracks(rows, record) if len(rows) else [] for rows, record in zip(rows_of(table, records), records)]


def _tracks(rows: pa.Table, record: Record) -> list[TrackSummary]:
    """The tracks of one unit, under the numbers they have in their chunk."""
    tracks, times = (rows[name].to_numpy() for name in ("track", "time_s"))
    boxes = rows["box"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    has_vectors = "identity_vector" in rows.column_names  # they may have been left out
    vectors: list[Any] = rows["identity_vector"].to_pylist() if has_vectors else [None] * len(rows)
    local = {now: chunk for chunk, now in _numbered(record, np.unique(tracks).tolist())}
    summaries = []
    for track in np.unique(tracks).tolist():
        own = np.flatnonzero(tracks == track)
        first, last = own[np.argmin(times[own])], own[np.argmax(times[own])]
        known = [vectors[i] for i in own if vectors[i] is not None]
        mean = np.mean(known, axis=0) if known else None
        summaries.append(TrackSummary(local[track], times[first], times[last], boxes[first], boxes[last], mean))
    return summaries


def _renumber(store: Store, shard: str, records: list[Record], ids: dict[str, dict[int, int]]) -> None:
    """Write a shard again with other track numbers, by unit."""
    table = store.table(part_path(shard))
    numbers: list[int] = []
    for rows, record in zip(rows_of(table, records), records):
        of_unit = ids[record.unit_id]
        before = {now: chunk for chunk, now in _numbered(record, of_unit)}
        numbers += [of_unit[before[now]] for now in rows["track"].to_pylist()]
    at = table.schema.get_field_index("track")
    table = table.set_column(at, table.schema.field("track"), pa.array(numbers, pa.int32()))
    numbered = [replace(record, numbered=sorted(ids[record.unit_id].items())) for record in records]
    store.publish(part_path(shard), parquet(with_records(table, numbered)))
