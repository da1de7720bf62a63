"""Columns for the study of faces, one row per face: action units, asymmetry, openings, gaze, head velocity.

Path: the rows of whole inputs (`rigface.dataset.Faces.by_input`) -> `frame_table` -> OUT/study/frames.

All are pure functions of stored columns, so they are not columns of faces/: a better formula needs no extraction, and
no dataset grows by what can be derived.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from rigface import schema
from rigface.face.geometry.rotation import angle_between, to_degrees
from rigface.schema import Column
from rigface.study import gaze
from rigface.study.action_units import (
    ACTION_UNITS,
    TWO_SIDED,
    action_units,
    asymmetries,
    eye_openings,
    mouth_opening,
)
from rigface.study.head_pose import head_turns
from rigface.types import DetectorSpec

VERSION = "study/2"
MAX_STEP_S = 0.5  # frames of a track further apart say nothing about velocity
INPUT_COLUMNS = (
    *("uri", "frame_index", "time_s", "track", "status", "blendshapes", "landmarks", "head_rotation", "camera"),
    "confidence",
)
_ANGLES = ("yaw", "pitch", "roll")


def _column(name: str, doc: str, unit: str = "") -> Column:
    return Column(name, pa.float32(), doc, unit)


KEY_COLUMNS = (
    Column("uri", pa.string(), "as in faces/"),
    Column("frame_index", pa.int32(), "as in faces/"),
    Column("time_s", pa.float64(), "as in faces/", "s"),
    Column("track", pa.int32(), "as in faces/"),
)
MEASURES = (
    *(_column(unit.column, f"action unit {unit.number}, {unit.name}", "[0, 1]") for unit in ACTION_UNITS),
    *(
        _column(f"{unit.column}_asymmetry", f"left minus right of unit {unit.number}; positive: the person's left")
        for unit in TWO_SIDED
    ),
    _column("asymmetry", "mean size of these differences"),
    _column("eye_opening_left", "opening of the left eye over its width"),
    _column("eye_opening_right", "opening of the right eye over its width"),
    _column("mouth_opening", "gap of the inner lips over the width of the mouth"),
    _column("yaw_deg", "head; positive: turned to the person's own left", "degrees"),
    _column("pitch_deg", "head; positive: down", "degrees"),
    _column("roll_deg", "head; positive: tilted clockwise as seen in the picture", "degrees"),
    _column("gaze_yaw_deg", "gaze against the camera, 0: into it; positive: to the person's own left", "degrees"),
    _column("gaze_pitch_deg", "gaze against the camera; positive: down", "degrees"),
    _column("eye_yaw_deg", "gaze against the head, 0: straight ahead; signs as above", "degrees"),
    _column("eye_pitch_deg", "gaze against the head", "degrees"),
    _column("head_speed_deg_s", "angle that the head turned since the track's last frame, over the time", "degrees/s"),
    _column("yaw_deg_s", "change of yaw over the time since the track's last frame", "degrees/s"),
    _column("pitch_deg_s", "change of pitch", "degrees/s"),
    _column("roll_deg_s", "change of roll", "degrees/s"),
)
FRAME_COLUMNS = (*KEY_COLUMNS, *MEASURES)


def frames_schema() -> pa.Schema:
    """Arrow schema of OUT/study/frames."""
    return pa.schema([pa.field(c.name, c.type) for c in FRAME_COLUMNS], metadata={"rigface.schema": VERSION})


def frame_table(rows: pa.Table, detector: DetectorSpec) -> tuple[pa.Table, np.ndarray]:
    """The study columns of whole inputs, and the confidence (N,) of their rows.

    Of the rows (`INPUT_COLUMNS`) those whose status is `ok` are measured; they come by input, track and time.

    A detector without 478 landmarks or without MediaPipe's scores leaves the columns that need them null.
    """
    rows = rows.take(pa.array(_in_order(rows))).combine_chunks()
    numbers: dict[str, Any] = _of_frames(rows, detector) | _of_steps(rows)
    columns = {name: rows[name].combine_chunks() for name in ("uri", "frame_index", "time_s", "track")}
    columns |= {name: pa.array(value, pa.float32(), from_pandas=True) for name, value in numbers.items()}
    confidence = np.asarray(rows["confidence"].to_numpy(), np.float64)
    return schema.table_of(columns, frames_schema()), confidence


def study_columns(rows: pa.Table, detector: DetectorSpec) -> pa.Table:
    """`MEASURES` of the rows (`INPUT_COLUMNS`, all `ok`) of any inputs, row by row; see `frame_table`.

    Velocities are known where the frame before is among the rows.
    """
    studied, _ = frame_table(rows, detector)
    back = np.empty(len(rows), np.int64)
    back[_in_order(rows)] = np.arange(len(rows))
    return studied.select([c.name for c in MEASURES]).take(pa.array(back))


def _in_order(rows: pa.Table) -> np.ndarray:
    """Numbers of the rows that are `ok`, by input, track and time."""
    good = np.flatnonzero(np.array(rows["status"].to_pylist()) == "ok")
    track, time = (rows[name].to_numpy()[good] for name in ("track", "time_s"))
    return np.asarray(good[np.lexsort((time, track, _codes(rows)[good]))], np.int64)


def _codes(rows: pa.Table) -> np.ndarray:
    """(N,) a number for each input, in the order in which they come."""
    return np.asarray(rows["uri"].combine_chunks().dictionary_encode().indices.to_numpy())


def track_starts(frames: pa.Table) -> np.ndarray:
    """(T + 1,) the first row of each track of a table in the order of `frame_table`, and the number of rows."""
    if not len(frames):
        return np.zeros(1, np.int64)
    changes = (np.diff(_codes(frames)) != 0) | (np.diff(frames["track"].to_numpy()) != 0)
    return np.concatenate([[0], np.flatnonzero(changes) + 1, [len(frames)]])


def _of_frames(rows: pa.Table, detector: DetectorSpec) -> dict[str, np.ndarray]:
    """What a frame says by itself."""
    out: dict[str, np.ndarray] = {}
    rotation, camera = numbers_of(rows, "head_rotation"), numbers_of(rows, "camera")
    turns = head_turns(rotation) if len(rows) else np.zeros((0, 3, 3))
    degrees = to_degrees(turns) if len(rows) else np.zeros((0, 3))
    out |= {f"{name}_deg": degrees[:, k] for k, name in enumerate(_ANGLES)}
    if detector.landmarks != 478 or not len(rows):
        return out
    points = numbers_of(rows, "landmarks").reshape(len(rows), 478, 3)
    if "jawOpen" in detector.blendshape_names:
        scores = numbers_of(rows, "blendshapes")
        out |= action_units(scores, detector.blendshape_names, points)
        differences = asymmetries(scores, detector.blendshape_names)
        out |= {f"{name}_asymmetry": value for name, value in differences.items()}
        out["asymmetry"] = np.mean([np.abs(value) for value in differences.values()], axis=0)
    openings = eye_openings(points)
    out |= {"eye_opening_left": openings[:, 0], "eye_opening_right": openings[:, 1]}
    out["mouth_opening"] = mouth_opening(points)
    seen = gaze.gaze_directions(points, rotation, camera)
    for prefix, directions in (("gaze", seen), ("eye", gaze.in_head(seen, turns))):
        angles = gaze.angles_deg(directions)
        out |= {f"{prefix}_yaw_deg": angles[:, 0], f"{prefix}_pitch_deg": angles[:, 1]}
    return out


def _of_steps(rows: pa.Table) -> dict[str, np.ndarray]:
    """Velocities of the head; NaN at the first frame of a track and after a gap."""
    count = len(rows)
    out = {name: np.full(count, np.nan) for name in ("head_speed_deg_s", *(f"{n}_deg_s" for n in _ANGLES))}
    if count < 2:
        return out
    turns = head_turns(numbers_of(rows, "head_rotation"))
    step = np.diff(rows["time_s"].to_numpy())
    follows = (step > 0) & (step <= MAX_STEP_S)
    follows[track_starts(rows)[1:-1] - 1] = False
    at = np.flatnonzero(follows) + 1
    if not len(at):
        return out
    out["head_speed_deg_s"][at] = np.degrees(angle_between(turns[at - 1], turns[at])) / step[at - 1]
    change = (np.diff(to_degrees(turns), axis=0) + 180) % 360 - 180
    for k, name in enumerate(_ANGLES):
        out[f"{name}_deg_s"][at] = change[at - 1, k] / step[at - 1]
    return out


def numbers_of(table: pa.Table, name: str) -> np.ndarray:
    """(N, width) float32 of a column of fixed-size lists; null rows are NaN."""
    values = table[name].combine_chunks()
    out = np.full((len(values), values.type.list_size), np.nan, np.float32)
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    out[valid] = values.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, values.type.list_size)
    return out
