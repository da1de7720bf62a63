"""Bootstrap coverage, paired differences, failures, groups."""

import numpy as np
import pytest

from rigface.metrics.statistics import interval, of_finite, paired_difference, with_failures, worst_first


def test_statistic_of_finite_values_ignores_nan_and_is_nan_without_any():
    ramp = np.append(np.linspace(0, 1, 11), np.nan)
    assert of_finite(lambda known: np.percentile(known, 10), ramp) == pytest.approx(0.1)
    assert np.isnan(of_finite(np.mean, np.full(3, np.nan)))


def test_interval_covers_the_truth_at_its_level():
    random = np.random.default_rng(0)
    hits, trials, people = 0, 200, 40
    for k in range(trials):
        person = np.repeat(np.arange(people), 3)
        values = random.normal(size=people)[person] + 0.3 * random.normal(size=len(person))
        low, high = interval(values, person, draws=400, seed=k)
        hits += low <= 0 <= high
    assert 0.89 <= hits / trials <= 0.99  # the percentile interval of 40 people covers a little less than 95 %


def test_pictures_of_one_person_do_not_pass_for_many_people():
    values = np.random.default_rng(1).normal(size=10)
    once = interval(values, np.arange(10))
    often = interval(np.repeat(values, 50), np.repeat(np.arange(10), 50))
    naive = interval(np.repeat(values, 50), np.arange(500))
    assert often == pytest.approx(once)
    assert naive[1] - naive[0] < 0.5 * (once[1] - once[0])


def test_one_person_gives_no_interval():
    assert np.isnan(interval(np.ones(5), np.zeros(5))).all()


def test_paired_difference_is_clear_where_separate_intervals_overlap():
    random = np.random.default_rng(3)
    hard = random.normal(size=50)
    a, b = hard + 0.1 + 0.05 * random.normal(size=50), hard + 0.05 * random.normal(size=50)
    got = paired_difference(a, b, np.arange(50))
    assert 0 < got.low < got.mean < got.high
    assert interval(a, np.arange(50))[0] < interval(b, np.arange(50))[1]
    assert got.pairs == 50


def test_pairs_one_model_failed_on_are_left_out():
    got = paired_difference(np.array([1.0, np.nan, 3.0]), np.array([0.0, 0.0, np.nan]), np.arange(3))
    assert (got.mean, got.pairs) == (1.0, 1)


@pytest.mark.parametrize(("worst", "want"), [("zero", 0.0), ("p95", 95.0), ("p5", 5.0), ("none", np.nan)])
def test_failure_costs_the_worst_value(worst, want):
    values, failed = np.append(np.arange(101.0), np.nan), np.append(np.zeros(101, bool), True)
    got = with_failures(values, failed, worst)
    assert got[-1] == pytest.approx(want, nan_ok=True)
    assert got[:-1] == pytest.approx(values[:-1])


def test_what_was_not_measured_is_no_failure():
    got = with_failures(np.array([1.0, np.nan]), np.array([False, False]), "zero")
    assert np.isnan(got[1])


def test_failing_on_hard_edits_does_not_improve_the_mean():
    own, everybody = np.array([1.0, 1.0, np.nan]), np.array([1.0, 1.0, 1.0, 1.0, 9.0, 9.0])
    failed = np.array([False, False, True])
    assert with_failures(own, failed, "p95")[-1] == 1
    assert with_failures(own, failed, "p95", everybody)[-1] == 9


def test_worst_group_comes_first_whichever_way_is_better():
    values, groups = np.array([0.9, 0.9, 0.5, 0.5, 0.1]), ["light", "light", "dark", "dark", "lone"]
    table, gap = worst_first(values, groups, higher_is_better=True, min_count=2)
    assert [g.name for g in table] == ["dark", "light", "lone"]  # one value is chance, and comes last
    assert gap == pytest.approx(0.4)
    assert worst_first(values, groups, higher_is_better=False, min_count=2)[0][0].name == "light"
    assert worst_first(values, groups, higher_is_better=True)[0][0].name == "lone"
