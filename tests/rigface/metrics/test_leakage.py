"""Leakage matrix: noise is 1, an achieved edit is 1 on the diagonal, leaks sorted."""

import numpy as np
import pytest

from rigface.metrics.leakage import TRAITS, edited_traits, leakage_matrix

FLOOR = dict.fromkeys(TRAITS, 0.1)


def one(**changes: float):
    values = {t: np.full(4, changes.get(t, 0.1)) for t in TRAITS}
    along = {t: np.full(4, 0.75) for t in TRAITS}
    asked = {t: np.ones(4) for t in TRAITS}
    return values, along, asked


def test_noise_is_one_and_the_diagonal_is_achieved_over_asked():
    got = leakage_matrix(["pose"] * 4, *one(), FLOOR)
    assert got.rows == ("pose",)
    row = dict(zip(got.columns, got.values[0]))
    assert row.pop("pose") == pytest.approx(0.75)
    assert row == pytest.approx(dict.fromkeys(row, 1.0))
    assert got.edited.sum() == 1
    assert got.counts.tolist() == [4]


def test_trait_that_leaks_most_is_named_and_the_diagonal_is_no_leak():
    got = leakage_matrix(["pose"] * 4, *one(light=0.7, pose=50.0), FLOOR)
    assert got.ranked("pose")[0] == ("light", pytest.approx(7.0))
    assert "pose" not in dict(got.ranked("pose"))


def test_each_edit_has_its_row_and_a_combination_its_own():
    values, along, asked = one()
    values["albedo"] = np.array([0.1, 0.1, 0.5, 0.5])
    got = leakage_matrix(["pose", "pose", "expression+light", "expression+light"], values, along, asked, FLOOR)
    assert got.rows == ("pose", "expression+light")
    assert got.values[:, TRAITS.index("albedo")] == pytest.approx([1, 5])
    assert got.edited.sum(1).tolist() == [1, 2]
    assert got.ranked("expression+light")[0] == ("albedo", pytest.approx(5.0))


def test_shares_are_of_sums_so_a_tiny_edit_does_not_explode():
    values, along, asked = one()
    asked["pose"] = np.array([1.0, 1.0, 1e-9, np.nan])
    along["pose"] = np.array([1.0, 1.0, 0.5, np.nan])
    got = leakage_matrix(["pose"] * 4, values, along, asked, FLOOR)
    assert got.values[0, TRAITS.index("pose")] == pytest.approx(1.25)


def test_without_a_floor_there_is_no_number():
    got = leakage_matrix(["pose"] * 4, *one(), {})
    assert np.isnan(np.delete(got.values[0], TRAITS.index("pose"))).all()
    assert got.ranked("pose") == []


def test_swap_takes_shape_and_skin_along():
    assert edited_traits("identity+pose") == {"identity", "shape", "albedo", "pose"}
    assert edited_traits("") == frozenset()
