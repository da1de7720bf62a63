"""Bootstrap intervals over people, means with failures at their worst, and groups sorted worst first.

Path: one value per edit -> interval, mean with failures, groups -> the card.
Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, the percentile interval; people are drawn, not
pictures, because pictures of one person are not independent (the cluster bootstrap of Davison & Hinkley 1997).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

DRAWS = 1000
LEVEL = 0.95
Worst = Literal["zero", "p95", "p5", "none"]


def of_finite(reduce: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    """A statistic of the finite values; NaN if there are none."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(reduce(known)) if len(known) else np.nan


def interval(values: np.ndarray, people: Sequence[object], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """A percentile interval of the mean by drawing people with replacement; NaN with fewer than two people.

    Values (N,) that are not finite are left out; `people` are N labels of the source's person.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    values, (names, member) = values[known], np.unique(np.asarray(people)[known], return_inverse=True)
    if len(names) < 2:
        return np.nan, np.nan
    random = np.random.default_rng(seed)
    times = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    drawn = times @ np.bincount(member, values) / (times @ np.bincount(member))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """Model a minus model b on the pairs both were given. Significant if low and high have the same sign."""

    mean: float
    low: float
    high: float
    pairs: int


def paired_difference(a: np.ndarray, b: np.ndarray, people: Sequence[object], draws: int = DRAWS) -> Difference:
    """The mean difference of two models on the same N edits, of pairs measured for both, with its interval."""
    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return Difference(of_finite(np.mean, gap), *interval(gap, people, draws), int(np.isfinite(gap).sum()))


def with_failures(
    values: np.ndarray, failed: np.ndarray, worst: Worst, reference: np.ndarray | None = None
) -> np.ndarray:
    """(N,) float64 values with every failure (N,) bool, no face in the output, at the worst value.

    The worst is `zero` for similarities, `p95` for errors, `p5` for gains, `none` to leave failures out: a percentile
    of `reference` or of the successes. Give all models' values when comparing several, so that a model does not gain by
    failing on hard edits. A NaN that is no failure (nothing to measure) stays NaN.
    """
    out = np.array(values, np.float64)
    if worst == "none":
        return out
    percent = {"p95": 95, "p5": 5}.get(worst, 0)
    pool = out[~np.asarray(failed)] if reference is None else reference
    bad = 0.0 if worst == "zero" else of_finite(lambda known: np.percentile(known, percent), pool)
    out[np.asarray(failed, bool)] = bad
    return out


@dataclass(frozen=True)
class Group:
    """One group's mean."""

    name: str
    count: int  # values behind the mean
    mean: float  # failures at their worst value included, if the values were made so


def worst_first(
    values: np.ndarray, groups: Sequence[str], higher_is_better: bool, min_count: int = 1
) -> tuple[list[Group], float]:
    """Means by group, the worst-served first, and the gap between worst and best, of the finite values (N,).

    Groups of fewer than `min_count` values are listed last and do not count for the gap.
    """
    values, names = np.asarray(values, np.float64), np.asarray(groups, object)
    out = []
    for name in sorted(set(names.tolist())):
        own = values[(names == name) & np.isfinite(values)]
        if len(own):
            out.append(Group(str(name), len(own), float(own.mean())))
    out.sort(key=lambda g: (g.count < min_count, g.mean if higher_is_better else -g.mean))
    counted = [g.mean for g in out if g.count >= min_count]
    return out, float(max(counted) - min(counted)) if len(counted) > 1 else np.nan
