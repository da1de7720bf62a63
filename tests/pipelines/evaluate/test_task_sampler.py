"""Choice of self-edits: people in turns, and each from cell to cell."""

import numpy as np

from pipelines.evaluate.task_sampler import in_turns


def test_every_person_comes_once_before_any_comes_twice():
    person = np.repeat([0, 1, 2, 3], [40, 1, 2, 1])
    cell = np.tile([0, 0, 0, 5], 11)
    chosen = in_turns(person, cell, 6, seed=0)
    assert sorted(person[chosen[:4]]) == [0, 1, 2, 3]
    assert sorted(person[chosen[4:]]) == [0, 2]


def test_pairs_of_a_person_run_through_the_cells():
    cell = np.array([0] * 50 + [7] + [9])
    chosen = in_turns(np.zeros(52, int), cell, 3, seed=0)
    assert sorted(cell[chosen]) == [0, 7, 9]
