"""Wanted readings of strangers: the true frame's, the target's, or what the numbers ask."""

from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from rigface.edits import EditSpec
from rigface.evaluation.rows import measure_edits
from rigface.evaluation.samples import Edited

from .conftest import Painted, paint


class Eyes:
    """Reads all traits off painted values; no face in a black picture."""

    networks = MappingProxyType({"pose": "n", "smile": "n", "age": "n", "identity": "n"})

    def __call__(self, picture):
        if not picture.any():
            return None
        person, yaw, smile = picture[20, 20].astype(float)
        return SimpleNamespace(
            yaw_deg=(yaw - 128) / 2 * 1.1, pitch_deg=0.0, roll_deg=0.0, smile=smile / 200, age_years=person,
            identity=np.eye(256)[int(person)],
        )  # fmt: skip


def measured(output, edit, **more):
    edited = Edited("m", "e", "0", "10", paint(10, yaw=-10), output, edit, **more)
    return measure_edits(Painted(), [edited], judges=Eyes())[0]


def test_numbers_ask_for_a_turn_from_where_the_stranger_sees_the_source():
    row = measured(paint(10, yaw=10), EditSpec(yaw_deg=10))
    assert row["before_yaw_n"] == pytest.approx(20, abs=0.1)
    assert row["yaw_n"] == pytest.approx(2, abs=0.1)  # it reads a tenth too much
    assert row["roll_n"] == pytest.approx(0, abs=1e-4)


def test_smile_by_number_has_no_wanted_reading_but_is_read():
    row = measured(paint(10, yaw=-10, smile=0.5), EditSpec(expression={"mouthSmileLeft": 0.5}))
    assert np.isnan(row["smile_n"])
    assert row["read_smile_n"] == pytest.approx(0.5)
    assert row["change_smile_n"] == pytest.approx(0.5)


def test_copied_trait_is_the_targets_and_the_rest_the_sources():
    target = paint(20, yaw=30, smile=0.8)
    row = measured(paint(10, yaw=-10, smile=0.8), EditSpec(take={"expression"}), target=target)
    assert row["smile_n"] == pytest.approx(0)
    assert row["before_smile_n"] == pytest.approx(0.8)
    assert row["yaw_n"] == row["age_n"] == row["identity_n"] == 0


def test_swap_wants_the_targets_identity_and_age():
    row = measured(paint(20, yaw=-10), EditSpec(take={"identity"}), target=paint(20, yaw=30))
    assert row["identity_n"] == row["age_n"] == 0
    assert row["before_identity_n"] == 1


def test_true_frame_has_an_identity_of_its_own():
    truth = paint(10, yaw=30)
    row = measured(paint(30, yaw=30), EditSpec(take={"pose"}), target=truth, truth=truth)
    assert row["truth_identity_n"] == row["identity_n"] == 1
    assert row["yaw_n"] == 0
    assert row["age_n"] == 20


def test_face_that_is_not_found_is_not_read():
    row = measured(np.zeros((64, 64, 3), np.uint8), EditSpec(yaw_deg=10))
    assert row["status"] == "no_face"
    assert np.isnan(row["yaw_n"])
