"""Gain and linearity on editors with a known score."""

import numpy as np
import pytest

from rigface.metrics.gain import gain, linearity, spearman


def test_gain_is_0_for_no_change_1_for_perfect_and_negative_for_worse():
    before = np.array([10.0, 20.0, 30.0, 40.0])
    assert gain(before, before, min_change=0) == pytest.approx(np.zeros(4))
    assert gain(0 * before, before, min_change=0) == pytest.approx(np.ones(4))
    assert gain(2 * before, before, min_change=0) == pytest.approx(-np.ones(4))


def test_gain_drops_pairs_with_the_smallest_change():
    before = np.arange(1.0, 101.0)
    got = gain(before / 2, before)
    assert np.isnan(got[:10]).all()
    assert got[10:] == pytest.approx(np.full(90, 0.5))


def test_gain_is_nan_without_an_edit_and_for_a_failure():
    got = gain(np.array([0.0, 1.0, np.nan]), np.array([0.0, 2.0, 2.0]), min_change=0)
    assert np.isnan(got[[0, 2]]).all()
    assert got[1] == 0.5


def test_failure_does_not_change_which_pairs_count():
    before = np.linspace(1, 2, 20)
    after = before.copy()
    after[5] = np.nan
    assert np.isfinite(gain(before, before)).sum() - np.isfinite(gain(after, before)).sum() == 1


def test_spearman_depends_on_ranks_only():
    x = np.arange(7.0)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert spearman(x, np.zeros(7)) == 0
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 2, 3])) == pytest.approx(1)


def test_half_responsive_slider_has_slope_one_half():
    asked = np.linspace(-30, 30, 7)
    got = linearity(asked, np.stack([0.5 * asked + 3, 0.5 * asked - 1]))
    assert (got.sweeps, got.rho, got.slope, got.share_ordered) == (2, pytest.approx(1), pytest.approx(0.5), 1.0)
    assert np.isnan(got.reach)


def test_dead_slider_lowers_ordered_share_and_percentile():
    asked = np.linspace(0, 1, 9)
    got = linearity(asked, np.stack([asked] * 4 + [0 * asked]))
    assert got.share_ordered == pytest.approx(0.8)
    assert got.rho == pytest.approx(1)
    assert got.rho_p10 < 0.9


def test_reach_ends_where_identity_is_lost():
    asked = np.linspace(-40, 40, 9)
    same = 1 - np.abs(asked) / 50  # 0.4 or more up to 30 degrees either way
    got = linearity(asked, asked[None], same[None], threshold=0.39)
    assert got.reach == pytest.approx(60)
    broken = same.copy()
    broken[6] = np.nan  # no face at 20 degrees: what lies beyond does not count
    assert linearity(asked, asked[None], broken[None], threshold=0.39).reach == pytest.approx(40)
    assert linearity(asked, asked[None], 0 * same[None], threshold=0.39).reach == 0


def test_sweep_with_too_few_faces_is_not_counted():
    measured = np.array([[1.0, np.nan, np.nan, 2.0], [1.0, 2.0, 3.0, np.nan]])
    assert linearity(np.arange(4.0), measured).sweeps == 1
