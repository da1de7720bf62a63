"""Faces as the CSV rows of OpenFace 2 and of py-feat, under the column names that their users parse.

Path: rows of one input (`INPUT_COLUMNS`) -> `openface_table` or `pyfeat_table` -> a CSV.
Source: OpenFace's wiki, *Output Format*; py-feat's `feat/utils/__init__.py`. Columns that are not measured here are
left out, not filled: neither AU06, AU09, AU23, nor emotions, 3D landmarks and shape parameters.

OpenFace: coordinates of the frame in px, x right, y down; the camera looks along z. Its camera has a focal length of
500 px for each 640 px of width, so does that of `pose_T*`. Rotations are R = Rx Ry Rz. `gaze_0_*` and `gaze_1_*` are
both the mean of the two eyes. Intensities `_r` are our [0, 1] times 5, `_c` is 1 from `PRESENT`.
"""

import numpy as np
import pyarrow as pa

from rigface.face.geometry.landmarks import IBUG_68
from rigface.study.frame_columns import INPUT_COLUMNS as STUDIED
from rigface.study.frame_columns import frame_table, numbers_of
from rigface.study.gaze import gaze_directions
from rigface.study.head_pose import head_turns
from rigface.types import CROP_PX, DetectorSpec

INPUT_COLUMNS = (*STUDIED, "box", "frame_to_crop", "landmark_confidence", "identity")
OPENFACE_UNITS = (1, 2, 4, 5, 7, 10, 12, 14, 15, 17, 20, 25, 26, 45)  # of its 17, with an intensity
OPENFACE_PRESENT = (*OPENFACE_UNITS[:-1], 28, 45)
PYFEAT_UNITS = (1, 2, 4, 5, 7, 10, 12, 14, 15, 17, 20, 24, 25, 26, 28, 43)  # of its 20
PRESENT = 0.3  # of [0, 1]
FOCAL = 500 / 640  # px per px of width
_FLIP = np.array([1.0, -1.0, -1.0])  # y up, z to the viewer -> y down, z away


def openface_table(rows: pa.Table, detector: DetectorSpec, width: int, height: int) -> pa.Table:
    """One row per face by track and time; frames are counted from 1, `face_id` is the track."""
    studied, rows, confidence = _studied(rows, detector)
    count = len(rows)
    out: dict[str, np.ndarray] = {
        "frame": rows["frame_index"].to_numpy() + 1,
        "face_id": rows["track"].to_numpy(),
        "timestamp": rows["time_s"].to_numpy().round(3),
        "confidence": confidence,
        "success": np.ones(count, np.int64),
    }
    rotation, camera = numbers_of(rows, "head_rotation"), numbers_of(rows, "camera")
    crop = numbers_of(rows, "frame_to_crop").reshape(count, 2, 3)
    if detector.landmarks == 478:
        points = numbers_of(rows, "landmarks").reshape(count, 478, 3)
        gaze = gaze_directions(points, rotation, camera) * _FLIP
        for eye in (0, 1):
            out |= {f"gaze_{eye}_{axis}": gaze[:, k] for k, axis in enumerate("xyz")}
        out |= {
            "gaze_angle_x": np.arctan2(gaze[:, 0], -gaze[:, 2]),
            "gaze_angle_y": np.arctan2(gaze[:, 1], -gaze[:, 2]),
        }
    out |= _pose(rotation, camera, crop, width, height)
    if detector.landmarks == 478:
        out |= _points68(points, crop)
    if studied["au12"].null_count < count:  # a detector without scores has no units
        out |= {f"AU{unit:02}_r": 5 * _floats(studied, f"au{unit:02}") for unit in OPENFACE_UNITS}
        present = {unit: _floats(studied, f"au{unit:02}") >= PRESENT for unit in OPENFACE_PRESENT}
        out |= {f"AU{unit:02}_c": flags.astype(np.int64) for unit, flags in present.items()}
    return _rounded(out)


def pyfeat_table(rows: pa.Table, detector: DetectorSpec, width: int, height: int) -> pa.Table:
    """One row per face by track and time; frames are counted from 0, angles are in radians with our signs."""
    studied, rows, _ = _studied(rows, detector)
    count = len(rows)
    box = numbers_of(rows, "box")
    out: dict[str, np.ndarray] = {
        "frame": rows["frame_index"].to_numpy(),
        "approx_time": rows["time_s"].to_numpy().round(3),
        "FaceRectX": box[:, 0],
        "FaceRectY": box[:, 1],
        "FaceRectWidth": box[:, 2] - box[:, 0],
        "FaceRectHeight": box[:, 3] - box[:, 1],
        "FaceScore": rows["landmark_confidence"].to_numpy(),
    }
    if detector.landmarks == 478:
        points = numbers_of(rows, "landmarks").reshape(count, 478, 3)
        out |= _points68(points, numbers_of(rows, "frame_to_crop").reshape(count, 2, 3))
    for name in ("Pitch", "Roll", "Yaw"):
        out[name] = np.radians(_floats(studied, f"{name.lower()}_deg"))
    if studied["au12"].null_count < count:
        closed = {43: "au45"}  # eyes closed, however long
        out |= {f"AU{unit:02}": _floats(studied, closed.get(unit, f"au{unit:02}")) for unit in PYFEAT_UNITS}
    table = _rounded(out)
    people = [name or f"track {t}" for name, t in zip(rows["identity"].to_pylist(), rows["track"].to_pylist())]
    return table.append_column("Identity", pa.array(people)).append_column("input", rows["uri"])


def _studied(rows: pa.Table, detector: DetectorSpec) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """The study columns, the stored rows in their order, and the confidence (N,)."""
    studied, confidence = frame_table(rows, detector)
    at = {key: i for i, key in enumerate(zip(rows["track"].to_pylist(), rows["frame_index"].to_pylist()))}
    order = [at[key] for key in zip(studied["track"].to_pylist(), studied["frame_index"].to_pylist())]
    return studied, rows.take(pa.array(order, pa.int64())).combine_chunks(), confidence


def _pose(rotation: np.ndarray, camera: np.ndarray, crop: np.ndarray, width: int, height: int) -> dict[str, np.ndarray]:
    """Location in mm and rotation in radians of the head in OpenFace's camera."""
    crop_px_per_m = camera[:, 0] * CROP_PX / 2
    zoom = crop[:, 0, 0]
    focal = FOCAL * width
    depth = focal / (crop_px_per_m / zoom)
    middle = CROP_PX / 2 + crop_px_per_m[:, None] * camera[:, 1:] * (1, -1)  # crop px of the head's origin
    place = (middle - crop[:, :, 2]) / zoom[:, None] - (width / 2, height / 2)
    turn = head_turns(rotation) * (_FLIP[:, None] * _FLIP)
    return {
        "pose_Tx": 1000 * place[:, 0] * depth / focal,
        "pose_Ty": 1000 * place[:, 1] * depth / focal,
        "pose_Tz": 1000 * depth,
        "pose_Rx": np.arctan2(-turn[:, 1, 2], turn[:, 2, 2]),
        "pose_Ry": np.arcsin(np.clip(turn[:, 0, 2], -1, 1)),
        "pose_Rz": np.arctan2(-turn[:, 0, 1], turn[:, 0, 0]),
    }


def _points68(points: np.ndarray, crop: np.ndarray) -> dict[str, np.ndarray]:
    """The 68 points of iBUG in frame px."""
    chosen = (points[:, list(IBUG_68), :2] - crop[:, None, :, 2]) / crop[:, None, None, 0, 0]
    return {f"{axis}_{i}": chosen[:, i, k] for k, axis in enumerate("xy") for i in range(len(IBUG_68))}


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64)


def _rounded(columns: dict[str, np.ndarray]) -> pa.Table:
    """A table with numbers as short as they are exact."""
    return pa.table(
        {n: v if v.dtype.kind == "i" else pa.array(np.round(v.astype(np.float64), 4), from_pandas=True)
         for n, v in columns.items()}
    )  # fmt: skip
