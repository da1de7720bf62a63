"""Gains and lights count only where there is something to measure; strangers have metrics of their own."""

import numpy as np
import pytest

from rigface.evaluation.metric_registry import METRICS, TestSet, cell, floors_of, metrics_of, values_of


def row(traits="pose", status="ok", **values):
    return {"traits": traits, "status": status, "person": "a", "seed": 0, **values}


def test_gain_counts_pairs_of_three_floors_or_more():
    floors = floors_of([row(change_pose=1.0), row(change_pose=3.0), row(change_pose=np.nan)])
    assert floors == {"pose": 2.0}
    rows = [row(before_pose=b, after_pose=b / 2) for b in (1.0, 5.9, 6.0, 30.0)] + [row("light", before_pose=30.0)]
    gains = values_of("gain_pose", rows, TestSet(floors=floors))
    assert gains == pytest.approx([np.nan, np.nan, 0.5, 0.5, np.nan], nan_ok=True)
    metric = next(m for m in METRICS if m.name == "gain_pose")
    assert cell(metric, rows, TestSet(floors=floors)).count == 2


def test_light_is_judged_where_the_balls_differ():
    rows = [
        row("light", before_light_ball=b, after_light_ball=b / 4, light_ball=b / 4, light_angle_deg=9.0)
        for b in (0.0013, 0.02)
    ]
    assert values_of("gain_light_ball", rows) == pytest.approx([np.nan, 0.75], nan_ok=True)
    assert values_of("light_ball", rows) == pytest.approx([np.nan, 0.005], nan_ok=True)
    assert values_of("light_angle_deg", rows) == pytest.approx([np.nan, 9.0], nan_ok=True)


def test_failure_costs_a_gain_only_where_it_counts():
    failed = [row(before_pose=b, after_pose=np.nan, status="no_face") for b in (1.0, 30.0)]
    rows = [row(before_pose=30.0, after_pose=3.0), *failed]
    metric = next(m for m in METRICS if m.name == "gain_pose")
    found = cell(metric, rows, TestSet(floors={"pose": 2.0}), np.array([0.9, 0.1]))
    assert found.value == pytest.approx(0.9)
    assert found.with_failures == pytest.approx((0.9 + 0.14) / 2)  # one failure, at the 5th percentile


def test_strangers_metrics_are_named_after_their_networks():
    extractors = {
        "in loop": "fit",
        "yaw by centerface": "1",
        "smile by fer": "2",
        "age by net": "3",
        "identity by a": "4",
    }
    added = [m.name for m in metrics_of(extractors) if m not in METRICS]
    assert added == [
        "yaw_centerface", "gain_yaw_centerface", "smile_fer", "gain_smile_fer", "age_net", "truth_identity_a",
        "identity_a", "gain_identity_a",
    ]  # fmt: skip
    rows = [row("expression", before_smile_fer=0.5, after_smile_fer=0.1), row(before_smile_fer=0.5, after_smile_fer=0)]
    assert values_of("gain_smile_fer", rows) == pytest.approx([0.8, np.nan], nan_ok=True)
