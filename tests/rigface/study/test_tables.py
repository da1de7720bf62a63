"""Study columns by frame and by track, of whole inputs."""

import numpy as np
import pyarrow as pa
import pytest

from rigface import schema
from rigface.face.detection.mediapipe import BLENDSHAPES
from rigface.face.geometry.rotation import from_degrees, to_axis_angle
from rigface.study.frame_columns import frame_table
from rigface.study.head_pose import YAW
from rigface.study.track_summary import hysteresis, runs, track_table
from rigface.types import DetectorSpec

DETECTOR = DetectorSpec("mediapipe", "1", 478, BLENDSHAPES)


def rows(yaw: list[float], blink: list[float], fps: float = 25.0, uri: str = "a.mp4", track: int = 0) -> pa.Table:
    """A track whose head turns and whose eyes close."""
    count = len(yaw)
    scores = np.zeros((count, len(BLENDSHAPES)), np.float32)
    for side in ("Left", "Right"):
        scores[:, BLENDSHAPES.index(f"eyeBlink{side}")] = blink
    pose = np.zeros((count, 3), np.float32)
    pose[:, 0] = np.divide(yaw, YAW)  # as the fit finds it
    return pa.table(
        {
            "uri": [uri] * count,
            "frame_index": pa.array(range(count), pa.int32()),
            "time_s": [k / fps for k in range(count)],
            "track": pa.array([track] * count, pa.int32()),
            "status": ["ok"] * count,
            "blendshapes": schema.column(scores, len(BLENDSHAPES)),
            "landmarks": schema.column(np.random.default_rng(0).normal(256, 40, (count, 1434)), 1434),
            "head_rotation": schema.column(to_axis_angle(from_degrees(pose)), 3),
            "camera": schema.column(np.tile([10.0, 0, 0], (count, 1)), 3),
            "confidence": pa.array([0.5] * count, pa.float32()),
        }
    )


def summary(table: pa.Table) -> dict:
    frames, confidence = frame_table(table, DETECTOR)
    return track_table(frames, confidence, {"a.mp4": "v1", "b.mp4": "v2"}).to_pylist()[0]


def test_head_velocity_is_degrees_over_seconds_and_null_where_there_is_no_frame_before():
    table = pa.concat_tables([rows([0, 2, 6], [0, 0, 0]), rows([20, 20], [0, 0], track=1), rows([9], [0], uri="b.mp4")])
    frames, _ = frame_table(table.take(pa.array([5, 2, 1, 0, 4, 3])), DETECTOR)
    assert frames["uri"].to_pylist() == ["b.mp4"] + ["a.mp4"] * 5
    assert frames["head_speed_deg_s"].to_pylist() == pytest.approx([None, None, 50, 100, None, 0], abs=0.1)
    assert frames["yaw_deg_s"].to_pylist() == pytest.approx([None, None, 50, 100, None, 0], abs=0.1)
    assert frames["yaw_deg"].to_pylist() == pytest.approx([9, 0, 2, 6, 20, 20], abs=0.01)


def test_a_long_gap_says_nothing_about_velocity():
    frames, _ = frame_table(rows([0, 30], [0, 0], fps=1), DETECTOR)
    assert frames["head_speed_deg_s"].to_pylist() == [None, None]


def test_blinks_are_counted_and_long_closings_are_not_blinks():
    blink = (
        [0.1] * 20 + [0.6, 0.9, 0.45] + [0.1] * 27 + [0.8] * 20 + [0.1] * 30
    )  # a blink of 3 frames, then 0.8 s closed
    row = summary(rows([0] * 100, blink))
    assert row["blinks"] == 1
    assert row["blinks_per_min"] == pytest.approx(15)
    assert row["blink_s"] == pytest.approx(3 / 25)
    assert row["eyes_closed"] == pytest.approx(0.23)
    assert (row["version"], row["faces"], row["confidence"]) == ("v1", 100, 0.5)


def test_blinks_are_unknown_at_few_frames_a_second():
    row = summary(rows([0] * 10, [0.1, 0.9] * 5, fps=5))
    assert row["blinks"] is None
    assert row["eyes_closed"] > 0


def test_means_and_spreads_are_those_of_the_frames():
    row = summary(rows([0, 10, 20], [0.1, 0.2, 0.6]))
    assert (row["yaw_deg_mean"], row["yaw_deg_sd"]) == pytest.approx((10, np.std([0, 10, 20])), abs=1e-3)
    assert (row["au45_mean"], row["au45_sd"]) == pytest.approx((0.3, np.std([0.1, 0.2, 0.6])), abs=1e-5)
    assert summary(rows([5], [0.1]))["yaw_deg_sd"] is None


def test_faces_that_failed_and_other_detectors_leave_nulls():
    table = rows([0, 1], [0, 0])
    failed = table.set_column(4, "status", pa.array(["error", "ok"]))
    assert len(frame_table(failed, DETECTOR)[0]) == 1
    frames, _ = frame_table(table, DetectorSpec("insightface", "1", 106))
    assert frames["au12"].null_count == frames["gaze_yaw_deg"].null_count == 2
    assert frames["yaw_deg"].null_count == 0


def test_hysteresis_needs_the_upper_mark_to_begin_and_the_lower_to_end():
    flags = hysteresis(np.array([0.4, 0.6, 0.4, np.nan, 0.2, 0.4, 0.7]), 0.5, 0.3)
    assert flags.tolist() == [False, True, True, True, False, False, True]
    assert runs(flags) == [(1, 4), (6, 7)]
