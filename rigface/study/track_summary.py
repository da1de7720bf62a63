"""One row per track: means and spreads of the frames' measures, blinks, openings of the mouth, velocity.

Path: `frame_table` of some inputs -> `track_table` -> OUT/study/tracks.

A blink lasts 0.1 to 0.4 s (Stern, Walrath and Goldstein, Psychophysiology 1984), so blinks are counted in tracks of at
least `MIN_BLINK_FPS` frames a second; below, their columns are null. `rigface extract` takes 5 frames a second by
default: use `--fps 25` or `--fps all`.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from rigface import schema
from rigface.schema import Column
from rigface.study.frame_columns import MEASURES, VERSION, track_starts

MIN_BLINK_FPS = 10.0
CLOSED, OPEN = 0.5, 0.35  # of unit 45: an eye closes at the first and is open again at the second
MAX_BLINK_S = 0.5  # longer: the eyes are closed
MOUTH_OPEN, MOUTH_SHUT = 0.15, 0.08  # gap over width: a mouth opens at the first and is shut again at the second
SPREAD_OF = tuple(
    c for c in MEASURES if c.name not in ("head_speed_deg_s", *(f"{a}_deg_s" for a in ("yaw", "pitch", "roll")))
)


def _number(name: str, doc: str, unit: str = "") -> Column:
    return Column(name, pa.float32(), doc, unit)


_COUNTS = (
    Column("uri", pa.string(), "as in faces/"),
    Column("track", pa.int32(), "as in faces/; a person of several tracks is found by `identities/`"),
    Column("version", pa.string(), "hash of the input's content and counts, which tells whether the row is up to date"),
    Column("faces", pa.int32(), "rows of the track whose status is `ok`"),
    Column("start_s", pa.float64(), "time of its first frame", "s"),
    Column("duration_s", pa.float64(), "from its first to its last frame", "s"),
    _number("fps", "sampled frames a second, by the median step", "1/s"),
    _number("confidence", "mean of faces/", "[0, 1]"),
)
_RATES = (
    Column("blinks", pa.int32(), f"closings of the eyes of at most {MAX_BLINK_S} s; null below {MIN_BLINK_FPS:g} fps"),
    _number("blinks_per_min", "their rate", "1/min"),
    _number("blink_s", "their mean duration", "s"),
    _number("eyes_closed", "share of the frames with closed eyes", "[0, 1]"),
    Column("mouth_openings", pa.int32(), "times that the mouth opened"),
    _number("mouth_openings_per_min", "their rate", "1/min"),
    _number("mouth_open", "share of the frames with an open mouth", "[0, 1]"),
    _number("head_speed_deg_s_mean", "mean speed of the head", "degrees/s"),
    _number("head_speed_deg_s_p95", "its 95th percentile", "degrees/s"),
)
TRACK_COLUMNS = (
    *_COUNTS,
    *_RATES,
    *(
        Column(f"{c.name}_{kind}", pa.float32(), f"{what} of {c.name}", c.unit)
        for c in SPREAD_OF
        for kind, what in (("mean", "mean"), ("sd", "standard deviation"))
    ),
)


def tracks_schema() -> pa.Schema:
    """Arrow schema of OUT/study/tracks."""
    return pa.schema([pa.field(c.name, c.type) for c in TRACK_COLUMNS], metadata={"rigface.schema": VERSION})


def track_table(frames: pa.Table, confidence: np.ndarray, versions: Mapping[str, str]) -> pa.Table:
    """Summaries of the tracks of `frame_table`, whose rows have this confidence (N,); and the versions of its uris."""
    starts = track_starts(frames)
    first, counts = starts[:-1], np.diff(starts)
    measures = {c.name: _floats(frames, c.name) for c in MEASURES}
    uris = frames["uri"].take(pa.array(first)).to_pylist()
    time = frames["time_s"].to_numpy()
    columns: dict[str, Any] = {
        "uri": uris,
        "track": frames["track"].to_numpy()[first],
        "version": [versions[uri] for uri in uris],
        "faces": counts,
        "start_s": time[first],
        "duration_s": time[starts[1:] - 1] - time[first],
        "confidence": _statistics(confidence, starts)[0],
    }
    for c in SPREAD_OF:
        columns[f"{c.name}_mean"], columns[f"{c.name}_sd"] = _statistics(measures[c.name], starts)
    rates = [
        _rates({n: v[a:b] for n, v in measures.items()}, time[a:b]) for a, b in itertools.pairwise(starts.tolist())
    ]
    wanted = tracks_schema()
    columns |= {name: [rate.get(name) for rate in rates] for name in wanted.names if name not in columns}
    arrays = {n: pa.array(columns[n], wanted.field(n).type, from_pandas=True) for n in wanted.names}
    return schema.table_of(arrays, wanted)


def _statistics(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) mean and standard deviation of each track's known values (N,); NaN if there is none, or less than two."""
    known = ~np.isnan(values)
    count = np.add.reduceat(known, starts[:-1], dtype=np.int64) if len(values) else np.zeros(0, np.int64)
    lengths = np.diff(starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(known, values, 0), starts[:-1]) / count if len(values) else np.zeros(0)
        gap = np.where(known, values - np.repeat(mean, lengths), 0)
        square = np.add.reduceat(gap**2, starts[:-1]) / count if len(values) else np.zeros(0)
    return np.where(count > 0, mean, np.nan), np.where(count > 1, np.sqrt(square), np.nan)


def _rates(own: dict[str, np.ndarray], time: np.ndarray) -> dict[str, Any]:
    """Counts, rates and shares of one track."""
    steps = np.diff(time)
    fps = 1 / float(np.median(steps)) if len(steps) and np.median(steps) > 0 else None
    out: dict[str, Any] = {"fps": fps}
    minutes = len(time) / fps / 60 if fps else 0.0
    lids, mouth, speed = own["au45"], own["mouth_opening"], own["head_speed_deg_s"]
    if not np.isnan(lids).all():
        shut = hysteresis(lids, CLOSED, OPEN)
        out["eyes_closed"] = float(shut.mean())
        if fps and fps >= MIN_BLINK_FPS:
            blinks = [s for s in ((stop - start) / fps for start, stop in runs(shut)) if s <= MAX_BLINK_S]
            out |= {"blinks": len(blinks), "blinks_per_min": len(blinks) / minutes}
            out["blink_s"] = float(np.mean(blinks)) if blinks else None
    if not np.isnan(mouth).all():
        parted = hysteresis(mouth, MOUTH_OPEN, MOUTH_SHUT)
        out["mouth_open"] = float(parted.mean())
        if fps:
            openings = sum(start > 0 for start, _ in runs(parted))
            out |= {"mouth_openings": openings, "mouth_openings_per_min": openings / minutes}
    if not np.isnan(speed).all():
        out["head_speed_deg_s_mean"] = float(np.nanmean(speed))
        out["head_speed_deg_s_p95"] = float(np.nanpercentile(speed, 95))
    return out


def hysteresis(values: np.ndarray, on: float, off: float) -> np.ndarray:
    """(N,) bool: true from a value of at least `on` until one below `off`; a NaN keeps what was before."""
    marks = np.where(values >= on, 1, np.where(values < off, 0, -1))
    known = np.flatnonzero(marks >= 0)
    last = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    return np.asarray((last >= 0) & (marks[known[last]] == 1)) if len(known) else np.zeros(len(values), bool)


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64)
