"""Gain of an edit over doing nothing, and linearity of a sweep.

Path: distances before and after an edit -> gain; one number swept over 7 to 11 values -> linearity.
Source: Spearman 1904 for the rank correlation; the rest is this project's protocol.
"""

from dataclasses import dataclass

import numpy as np

from rigface.metrics.statistics import of_finite

DROPPED = 10.0  # percent of the pairs: those with the smallest change asked
GOOD_ORDER = 0.9


def gain(after: np.ndarray, before: np.ndarray, min_change: float | None = None) -> np.ndarray:
    """(N,) 1 - d(output, wanted) / d(source, wanted): 0 for no change, 1 for a perfect edit, below 0 if worse.

    NaN if `after`, the output's distance (N,), is not known, no change was asked, or `before`, the source's distance
    (N,), is below `min_change`: a ratio to almost nothing is noise. None: the `DROPPED` percentile of all.
    """
    after, before = np.asarray(after, np.float64), np.asarray(before, np.float64)
    if min_change is None:
        min_change = of_finite(lambda known: np.percentile(known, DROPPED), before)
    counts = (before >= min_change) & (before > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts, 1 - after / before, np.nan)


@dataclass(frozen=True)
class Linearity:
    """Agreement of one measured number with the asked one, over many sweeps."""

    sweeps: int  # number of sweeps with at least three outputs measured, at different values asked
    rho: float  # median of Spearman's rho
    rho_p10: float  # its 10th percentile
    slope: float  # median slope of measured against asked; 1 is right, 0 does nothing
    share_ordered: float  # share of sweeps with rho above 0.9
    reach: float  # median width of the range asked in which identity stays above the threshold; NaN without one


def linearity(
    asked: np.ndarray, measured: np.ndarray, identity: np.ndarray | None = None, threshold: float | None = None
) -> Linearity:
    """Linearity of S sweeps of K values each.

    Args:
        asked: (S, K) values asked; or (K,) for all sweeps.
        measured: (S, K) values re-measured on the outputs; NaN if there was no face; then not counted.
        identity: (S, K) similarity to the source; a failure (NaN) counts as below the threshold.
        threshold: similarity above which it is the same person.
    """
    measured = np.atleast_2d(np.asarray(measured, np.float64))
    asked = np.broadcast_to(np.asarray(asked, np.float64), measured.shape)
    rhos, slopes, reaches = [], [], []
    for row, (x, y) in enumerate(zip(asked, measured)):
        good = np.isfinite(x) & np.isfinite(y)
        if good.sum() < 3 or np.ptp(x[good]) == 0:
            continue
        rhos.append(spearman(x[good], y[good]))
        slopes.append(np.polyfit(x[good], y[good], 1)[0])
        if identity is not None and threshold is not None:
            reaches.append(_reach(x, np.asarray(identity, np.float64)[row], threshold))
    if not rhos:
        return Linearity(0, *[np.nan] * 5)
    return Linearity(
        sweeps=len(rhos),
        rho=float(np.median(rhos)),
        rho_p10=float(np.percentile(rhos, 10)),
        slope=float(np.median(slopes)),
        share_ordered=float(np.mean(np.array(rhos) > GOOD_ORDER)),
        reach=float(np.median(reaches)) if reaches else np.nan,
    )


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two (N,) arrays, ties at their mean rank; 0 if either is constant."""
    a, b = _ranks(x), _ranks(y)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks about their mean; ties share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place] - (len(values) + 1) / 2


def _reach(asked: np.ndarray, identity: np.ndarray, threshold: float) -> float:
    """The width of the run of asked values around the best one in which the person is recognised; 0 if none."""
    order = np.argsort(asked)
    x, same = asked[order], np.nan_to_num(identity[order], nan=-np.inf) > threshold
    if not same.any():
        return 0.0
    low = high = int(np.nanargmax(np.where(np.isfinite(identity[order]), identity[order], -np.inf)))
    while low > 0 and same[low - 1]:
        low -= 1
    while high < len(x) - 1 and same[high + 1]:
        high += 1
    return float(x[high] - x[low])
