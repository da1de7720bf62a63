"""Identity metrics: cosines, and the threshold of a test set."""

import numpy as np
import pytest

from rigface.metrics import identity


def test_copy_is_the_same_person_and_length_does_not_matter():
    vectors = np.random.default_rng(0).normal(size=(5, 128))
    assert identity.cosine(vectors, 3 * vectors) == pytest.approx(np.ones(5))
    assert identity.cosine(vectors, -vectors) == pytest.approx(-np.ones(5))
    assert identity.distance(vectors, vectors) == pytest.approx(np.zeros(5))


def test_missing_vector_gives_nan():
    assert np.isnan(identity.cosine(np.full((1, 4), np.nan), np.ones((1, 4)))).all()
    assert np.isnan(identity.cosine(np.zeros((1, 4)), np.ones((1, 4)))).all()


def test_impostors_are_pairs_of_two_people_each_once():
    vectors = np.eye(4)[[0, 0, 1, 2]]
    got = identity.impostor_cosines(vectors, np.array(["a", "a", "b", "c"]))
    assert len(got) == 5  # six pairs, one of them the same person
    assert got == pytest.approx(np.zeros(5))


def test_impostors_leave_out_what_was_not_measured():
    vectors = np.eye(3)
    vectors[0] = np.nan
    assert len(identity.impostor_cosines(vectors, np.array([0, 1, 2]))) == 1


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 0.25])
def test_threshold_passes_exactly_the_allowed_impostors(rate):
    impostors = np.random.default_rng(1).normal(size=4000)
    threshold = identity.threshold_at(impostors, rate)
    assert (impostors > threshold).mean() <= rate
    assert (impostors >= threshold).mean() > rate


def test_with_few_pairs_no_impostor_passes():
    assert identity.threshold_at(np.array([0.1, 0.7, 0.3])) == 0.7
    assert np.isnan(identity.threshold_at(np.zeros(0)))


def test_bins_are_by_size_of_the_turn():
    got = identity.bins_of(np.array([0, -9.99, 10, -75, 180, np.nan]))
    names = identity.bin_names()
    assert [names[i] if i >= 0 else "" for i in got] == ["0-10°", "0-10°", "10-20°", "60°+", "60°+", ""]
