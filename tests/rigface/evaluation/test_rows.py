"""Rows of known editors on painted pictures."""

import numpy as np
import pytest

from rigface.edits import EditSpec, LightEdit
from rigface.evaluation.baselines import COPY_SOURCE, COPY_TARGET, FLOOR, ROUND_TRIP, SHAKEN, controls, jittered
from rigface.evaluation.rows import Known, measure_edits
from rigface.evaluation.samples import Edited, traits_of

from .conftest import paint, read

POSE = EditSpec(take={"pose"})


def edited(output, edit=POSE, source=None, target=None, **more):
    given = dict(model="mine", name="pose", key="0", person="10", target_person="20")
    source = paint(10, yaw=-10) if source is None else source
    target = paint(20, yaw=30, smile=0.8, azimuth=40) if target is None and edit.needs_target else target
    return Edited(source=source, output=output, edit=edit, target=target, **{**given, **more})


def test_painted_estimator_reads_painted_values():
    seen = read(paint(33, yaw=12, smile=0.5, azimuth=-20))
    assert np.degrees(seen.params.head_rotation[1]) == pytest.approx(12, abs=1e-3)
    assert seen.params.expression[1] == pytest.approx(0.5)
    assert read(np.zeros((8, 8, 3), np.uint8)) is None


def test_perfect_edit_has_no_error_and_leaks_nothing(estimator):
    (row,) = measure_edits(estimator, [edited(paint(10, yaw=30))])
    assert row["status"] == "ok"
    for name in (
        "pose_deg",
        "yaw_error_deg",
        "expression_rmse",
        "light_rmse",
        "shape_rmse",
        "pose_mp",
        "expression_mp",
    ):
        assert row[name] == pytest.approx(0, abs=1e-4), name
    assert row["identity"] == pytest.approx(1)
    assert (row["before_pose"], row["after_pose"]) == (pytest.approx(40, abs=1e-3), pytest.approx(0, abs=1e-3))
    assert (row["turn_yaw_deg"], row["source_yaw_deg"]) == (pytest.approx(40, abs=1e-3), pytest.approx(-10, abs=1e-3))
    assert row["change_light"] == row["change_expression"] == pytest.approx(0)


def test_half_a_turn_is_half_the_error_and_half_achieved(estimator):
    (row,) = measure_edits(estimator, [edited(paint(10, yaw=10))])
    assert row["pose_deg"] == pytest.approx(20, abs=1e-3)
    assert row["along_pose"] / row["asked_pose"] == pytest.approx(0.5, abs=1e-4)
    assert row["pose_mp"] == pytest.approx(20, abs=1e-3)


def test_copied_target_changes_identity_and_shape(estimator):
    edit = edited(None)
    (row,) = measure_edits(estimator, [edited(edit.target)])
    assert row["pose_deg"] == pytest.approx(0, abs=1e-3)
    assert row["identity"] < 0.5
    assert row["shape_rmse"] == pytest.approx(0.1 / np.sqrt(2), rel=1e-3)
    assert row["expression_rmse"] > 0.5


def test_swap_wants_the_targets_face(estimator):
    swap = EditSpec(take={"identity"})
    (row,) = measure_edits(estimator, [edited(paint(20, yaw=-10), edit=swap, target=paint(20, yaw=5))])
    assert row["identity"] == pytest.approx(1)
    assert row["shape_rmse"] == pytest.approx(0, abs=1e-6)


def test_numbers_without_a_target_have_an_independent_track_too(estimator):
    edit = EditSpec(yaw_deg=15, expression={"mouthSmileLeft": 0.6})
    (row,) = measure_edits(estimator, [edited(paint(10, yaw=12, smile=0.5), edit=edit)])
    assert row["pose_mp"] == pytest.approx(3, abs=1e-3)
    assert row["expression_mp"] == pytest.approx(0.05, abs=1e-4)
    assert row["before_pose_mp"] == pytest.approx(25, abs=1e-3)
    assert row["traits"] == "expression+pose"


def test_half_strength_wants_half_the_turn_on_both_tracks(estimator):
    (row,) = measure_edits(estimator, [edited(paint(10, yaw=10), edit=EditSpec(take={"pose"}, strength=0.5))])
    assert row["pose_deg"] == pytest.approx(0, abs=1e-3)
    assert row["pose_mp"] == pytest.approx(0, abs=1e-3)


def test_light_of_numbers_has_its_angle(estimator):
    edit = EditSpec(light=LightEdit(azimuth_deg=30))
    (row,) = measure_edits(estimator, [edited(paint(10, yaw=-10, azimuth=10), edit=edit)])
    assert row["light_angle_deg"] == pytest.approx(18.8, abs=0.2)  # 20 degrees of azimuth at 20 of elevation
    assert row["light_ball"] > 0
    assert not row["light_angle_skipped"]


@pytest.mark.parametrize("output", [None, np.zeros((64, 64, 3), np.uint8)])
def test_no_face_is_a_failure_with_nothing_measured(estimator, output):
    (row,) = measure_edits(estimator, [edited(output)])
    assert row["status"] == "no_face"
    assert np.isnan([row["identity"], row["pose_deg"], row["light_rmse"], row["pose_mp"]]).all()
    assert row["before_pose"] == pytest.approx(40, abs=1e-3)  # what was asked is known all the same


def test_source_without_a_face_is_unusable(estimator):
    black = np.zeros((64, 64, 3), np.uint8)
    rows = measure_edits(estimator, [edited(paint(), source=black), edited(paint(), target=black), edited(paint())])
    assert [r["status"] for r in rows] == ["unusable", "unusable", "ok"]
    assert "identity" not in rows[0]


def test_true_frame_gives_picture_numbers(estimator):
    truth = paint(10, yaw=30)
    worse = truth.copy()
    worse[:, :16] ^= 8
    good, bad = measure_edits(estimator, [edited(truth, truth=truth), edited(worse, truth=truth, key="1")])
    assert good["psnr"] == 100
    assert 20 < bad["psnr"] < 50
    assert good["truth_distance"] == pytest.approx(0)


def test_background_counts_outside_the_person_only(estimator):
    source = paint(10, yaw=-10)
    touched = source.copy()
    touched[22:29, 36:44] = 200
    spoilt = source.copy()
    spoilt[:4, 40:] ^= 16
    rows = measure_edits(estimator, [edited(p, source=source) for p in (touched, spoilt)])
    assert rows[0]["background_psnr"] == 100
    assert rows[1]["background_psnr"] < 50
    assert rows[1]["change_background"] > 0


def test_all_are_compared_at_the_lowest_resolution(estimator):
    big, small = paint(10, yaw=30, size=64), paint(10, yaw=30, size=32)
    rows = measure_edits(estimator, [edited(big, truth=big), edited(small, truth=big, key="1")])
    assert rows[0]["psnr"] == 100  # both shrunk alike
    assert rows[0]["source_face_px"] == 8
    with pytest.raises(ValueError, match="framing"):
        measure_edits(estimator, [edited(big[:, :40])])


def test_known_pictures_are_not_estimated_again(estimator):
    known = Known()
    measure_edits(estimator, [edited(paint(10, yaw=30)), edited(paint(10, yaw=20), key="1")], known=known)
    assert estimator.looked == 4  # one source, one target, two outputs
    measure_edits(estimator, [edited(paint(10, yaw=25))], known=known)
    assert estimator.looked == 5
    assert len(known.estimates) == 2


def test_controls_output_source_target_and_round_trip(estimator):
    asked = [edited(None, key=str(k)) for k in range(3)]
    rows = measure_edits(estimator, controls([*asked, *asked], round_trip=lambda p: p))
    assert len(rows) == 10  # three of each, one floor for their one source; a pair given twice counts once
    by = {name: [r for r in rows if r["model"] == name] for name in (COPY_SOURCE, COPY_TARGET, ROUND_TRIP, FLOOR)}
    assert [r["control"] for r in rows] == [True] * 10
    assert [r["after_pose"] == r["before_pose"] for r in by[COPY_SOURCE]] == [True] * 3
    assert max(r["after_pose"] for r in by[COPY_TARGET]) < 1e-3
    for row in by[FLOOR]:  # errors are against the source, as nothing was asked; distances still against the wish
        assert 0 < row["pose_deg"] < 1
        assert row["before_pose"] == pytest.approx(40, abs=1e-3)
        assert abs(row["after_pose"] - 40) < 1
        assert "psnr" not in row


def test_without_a_target_two_controls_remain(estimator):
    made = controls([edited(None, edit=EditSpec(yaw_deg=5))], round_trip=lambda p: p)
    assert [c.model for c in made] == [COPY_SOURCE, FLOOR]


def test_true_frames_of_clips_are_moved_each_its_own_way():
    truth = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    frames = [edited(None, key=str(k), truth=truth, clip=("clip", k / 25)) for k in range(6)]
    moved = [c for c in controls(frames) if c.model == SHAKEN]
    assert [c.clip for c in moved] == [frame.clip for frame in frames]
    assert len({c.output.tobytes() for c in moved}) > 1


@pytest.mark.parametrize("size", [64, 512])
def test_jitter_moves_by_three_in_512_and_blurs_nothing(size):
    picture = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    moved = jittered(picture, np.random.default_rng(1))
    assert moved.shape == picture.shape
    reach = max(round(3 * size / 512), 1)
    found = [
        (x, y)
        for x in range(-reach, reach + 1)
        for y in range(-reach, reach + 1)
        if (moved[10 + y : 40 + y, 10 + x : 40 + x] == picture[10:40, 10:40]).all()
    ]
    assert len(found) == 1
    assert found[0] != (0, 0)


def test_sweep_has_asked_and_achieved_numbers(estimator):
    made = [
        edited(paint(10, yaw=y / 2), edit=EditSpec(yaw_deg=y), sweep=("s", "yaw_deg"), key=str(y))
        for y in (-20.0, 20.0)
    ]
    rows = measure_edits(estimator, made)
    assert [(r["asked"], r["achieved"]) for r in rows] == [pytest.approx((-20, -10)), pytest.approx((20, 10))]
    with pytest.raises(ValueError, match="not a number of the edit: yaw_deg"):
        measure_edits(estimator, [edited(paint(), edit=EditSpec(yaw_deg=1), sweep=("s", "smile"))])


def test_traits_of_an_edit():
    assert traits_of(EditSpec(take={"light"}, yaw_deg=1.0, expression={"smile": 0.2})) == [
        "expression",
        "light",
        "pose",
    ]
    assert traits_of(EditSpec(yaw_deg=1.0, strength=0)) == []


def test_no_edits_give_no_rows(estimator):
    assert measure_edits(estimator, []) == []
