"""Order of examples: every one once an epoch, the same for any start and number of workers, weights of datasets."""

from collections import Counter

import numpy as np
import pytest

from pipelines.train.batch_sampler import BatchSampler
from rigface.errors import PlanError


def order_of(sizes, **options) -> BatchSampler:
    return BatchSampler([np.arange(n) for n in sizes], **{"batch": 2, "window": 3, "seed": 5, **options})


def taken(order, micro_batches, start, steps):
    out = []
    for window in order.windows(micro_batches, start):
        rows = np.stack([window.parts, window.rows], 1).reshape(window.steps, len(micro_batches), order.batch, 2)
        out += list(rows)
        if len(out) >= steps:
            return out[:steps]
    return out


def test_epoch_shows_every_example_once_and_the_next_in_another_order():
    order = order_of([7, 4, 9], batch=2)
    epochs = [np.concatenate(taken(order, [0], e * 10, 10)).reshape(-1, 2) for e in range(2)]
    for epoch in epochs:
        assert len({tuple(row) for row in epoch.tolist()}) == 20
    assert not np.array_equal(epochs[0], epochs[1])


WEIGHTED = {"weights": (3, 1), "datasets": (2, 1)}


@pytest.mark.parametrize("mixture", [{}, WEIGHTED])
def test_starting_in_the_middle_gives_the_same_batches(mixture):
    order = order_of([7, 4, 9], **mixture)
    whole = taken(order, [0], 0, 25)
    for start in (1, 4, 9, 10, 13):
        assert np.array_equal(taken(order, [0], start, 5), whole[start : start + 5])


@pytest.mark.parametrize("mixture", [{}, WEIGHTED])
def test_micro_batches_are_the_same_for_any_number_of_workers(mixture):
    order = order_of([20, 13, 31], micro_batches=4, **mixture)
    together = np.stack(taken(order, [0, 1, 2, 3], 0, 20))
    apart = [np.stack(taken(order, micro_batches, 0, 20)) for micro_batches in ([0, 2], [1, 3])]
    assert np.array_equal(together[:, [0, 2]], apart[0])
    assert np.array_equal(together[:, [1, 3]], apart[1])
    if not mixture:
        seen = [tuple(r) for r in together[: order.steps_per_epoch].reshape(-1, 2).tolist()]
        assert len(seen) == len(set(seen))


def test_datasets_have_their_weights_in_every_window_and_show_all_rows_equally_often():
    order = order_of([7, 4, 89], batch=5, window=2, **WEIGHTED)  # 11 rows have three quarters, 89 one quarter
    rows = [tuple(r) for r in np.concatenate(taken(order, [0], 0, 200)).reshape(-1, 2).tolist()]
    for first in range(0, len(rows), 10):
        assert sum(part == 2 for part, _ in rows[first : first + 10]) in (2, 3)
    assert sum(part == 2 for part, _ in rows) == len(rows) / 4
    for parts, count in (({0, 1}, 11), ({2}, 89)):
        times = Counter(row for row in rows if row[0] in parts)
        assert len(times) == count
        assert max(times.values()) - min(times.values()) <= 1
    with pytest.raises(PlanError, match="folder 2 of 2"):
        order_of([7, 4, 0], **WEIGHTED)


def test_fewer_examples_than_a_batch_are_repeated_and_none_is_refused():
    assert len(taken(order_of([1], batch=4), [0], 0, 3)) == 3
    with pytest.raises(PlanError, match="no examples"):
        order_of([0, 0])
