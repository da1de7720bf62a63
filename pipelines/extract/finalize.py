"""Close an input whose units are all done: one person, one track number, and one row that says what became of it.

Path: records of an input's units -> join_tracks (long videos only) -> conclude -> OUT/inputs.

Tracks are numbered within their chunk when a unit is written. For an input of several chunks they are joined across each
border and renumbered, and the parts in which a number changes are written again, whole. The numbers a part had before are
kept in its record (`numbered`), so doing it twice, or being killed in between, comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.extract.dataset import FaceDataset
from pipelines.extract.layout import parquet, part_path, with_record
from pipelines.extract.plan import Plan, units_of
from rigface.storage.store import Store

if TYPE_CHECKING:
    from rigface.face.detection.tracking import TrackSummary

Record = dict[str, Any]

NUMBERED = "numbered"  # in a part's record: [[number in the chunk, number in the input], ...], once they differ


def summarize_input(plan: Plan, records: list[Record], tracks: int | None = None) -> dict[str, Any]:
    """The row of `OUT/inputs/` of one input.

    Args:
        plan: of the input.
        records: one per unit; none where the plan itself says `error`.
        tracks: how many there are after joining; None: as many as the only unit has.
    """
    records = sorted(records, key=lambda r: r["index"])
    trouble = next((r for r in records if r["status"] != "ok"), plan)
    frames, faces = (sum(r[name] for r in records) for name in ("frames", "faces"))
    if plan["status"] == "error" or (records and all(r["status"] == "error" for r in records)):
        status = "error"
    elif any(r["status"] != "ok" for r in records):
        status = "partial"
    else:
        status = "ok" if faces else "no_face"
    read = [r for r in records if r["last_frame"] >= 0]
    whole = status in ("ok", "no_face") and plan["shown_frames"]
    seconds: dict[str, float] = {}
    for record in records:
        for step, value in record["seconds"].items():
            seconds[step] = seconds.get(step, 0.0) + value
    return {
        "uri": plan["uri"],
        "kind": plan["kind"],
        "status": status,
        "stage": trouble["stage"],
        "reason": trouble["reason"],
        "frames": frames,
        "faces": faces,
        "tracks": sum(r["tracks"] for r in records) if tracks is None else tracks,
        "shown_frames": plan["shown_frames"] if whole else max((r["last_frame"] + 1 for r in read), default=0),
        "duration_s": max((r["last_time_s"] for r in read), default=None),
        "width": plan["width"] or next((r["width"] for r in read), None),
        "height": plan["height"] or next((r["height"] for r in read), None),
        "bytes": plan["bytes"],
        "sha256": plan["sha256"] or None,
        "chunks": len(plan["chunks"]),
        "stage_seconds": sorted(seconds.items()),
    }


def finalize_input(out: str, plan: Plan, config: str) -> dict[str, Any]:
    """Join the tracks of an input whose units are all done, and say what became of it.

    Args:
        out: uri of the output.
        config: name of the configuration.

    Returns:
        Its row of `OUT/inputs/`.
    """
    output = FaceDataset(Store(out))
    units = [unit for unit, _ in units_of(plan, config)]
    records = [output.record(unit) for unit in units]
    tracks = join_tracks(output.store, plan, units, records) if len(units) > 1 else None
    return summarize_input(plan, records, tracks)


def join_tracks(store: Store, plan: Plan, units: list[str], records: list[Record]) -> int:
    """Number the tracks of a cut video from its start to its end.

    Args:
        units, records: of its chunks, in order.

    Returns:
        How many tracks there are.
    """
    from rigface.face.detection.tracking import MAX_GAP, number_tracks
    from rigface.face.identity.dlib_embedding import same_person_distance

    chunks = [_summaries(store, unit, record) if record["faces"] else [] for unit, record in zip(units, records)]
    # Unseen for MAX_GAP is seen again one later; half a frame over, because frames are not shown exactly on the beat.
    widths = {len(one.identity) for chunk in chunks for one in chunk if one.identity is not None} or {0}
    numbers = number_tracks(chunks, (MAX_GAP + 1.5) / (plan["rate"] or 25), same_person_distance(*widths))
    for unit, record, ids in zip(units, records, numbers):
        if record["faces"] and ids != dict(_numbered(record, ids)):
            _renumber(store, unit, record, ids)
    return len({one for ids in numbers for one in ids.values()})


def _numbered(record: Record, local: Iterable[int]) -> list[tuple[int, int]]:
    """The numbers that a part's tracks have in the file now: (in the chunk, in the file)."""
    return [tuple(pair) for pair in record.get(NUMBERED, [])] or [(i, i) for i in local]


def _summaries(store: Store, unit: str, record: Record) -> list[TrackSummary]:
    """The tracks of one part, under the numbers they have in their chunk."""
    from rigface.face.detection.tracking import TrackSummary

    columns = ["track", "time_s", "box", "identity_vector"]
    part = store.table(part_path(unit), columns)
    tracks, times = (part[name].to_numpy() for name in ("track", "time_s"))
    boxes = part["box"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    vectors = part["identity_vector"].to_pylist()
    local = {now: chunk for chunk, now in _numbered(record, np.unique(tracks).tolist())}
    out = []
    for track in np.unique(tracks).tolist():
        rows = np.flatnonzero(tracks == track)
        first, last = rows[np.argmin(times[rows])], rows[np.argmax(times[rows])]
        known = [vectors[i] for i in rows if vectors[i] is not None]
        mean = np.mean(known, axis=0) if known else None
        out.append(TrackSummary(local[track], times[first], times[last], boxes[first], boxes[last], mean))
    return out


def _renumber(store: Store, unit: str, record: Record, ids: dict[int, int]) -> None:
    """Write a part again with other track numbers."""
    part = store.table(part_path(unit))
    before = {now: chunk for chunk, now in _numbered(record, ids)}
    track = pa.array([ids[before[now]] for now in part["track"].to_pylist()], pa.int32())
    part = part.set_column(part.schema.get_field_index("track"), part.schema.field("track"), track)
    record = {**record, NUMBERED: sorted(ids.items())}
    store.publish(part_path(unit), parquet(with_record(part, record)))
