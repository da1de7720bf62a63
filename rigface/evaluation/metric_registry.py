"""Metrics of a report card: extractor, direction, and cost of a failure.

Path: rows of `measure_edits` -> `values_of` a metric -> `cell` -> `make_card`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rigface.metrics.gain import gain
from rigface.metrics.leakage import edited_traits
from rigface.metrics.statistics import Worst, interval, of_finite, with_failures
from rigface.types import DLIB_SAME_PERSON

Row = dict[str, Any]  # the columns of one edit, by `rows.measure_edits`


@dataclass(frozen=True)
class Metric:
    """One number of the card."""

    name: str  # in the JSON and Parquet forms; the rows' column, unless `values_of` derives it
    label: str  # for display
    unit: str
    extractor: str  # a key of `FaceEstimator.extractors`, or the computation
    higher: bool = False  # more is better
    worst: Worst = "p95"  # value of a failure
    rms: bool = False  # the mean is a root mean square, as usual for coefficients
    scale: float = 1.0  # factor at printing
    digits: int = 2  # after the point, at printing


_PICTURE = "pixels, data range 1"
METRICS = (
    Metric("identity", "identity", "cosine", "identity", higher=True, worst="zero", digits=3),
    Metric("same_person", "same person", "share above the threshold", "identity", higher=True, worst="zero"),
    Metric("same_dlib", f"same person ({DLIB_SAME_PERSON})", f"share nearer than {DLIB_SAME_PERSON}", "identity",
           higher=True, worst="zero"),
    Metric("truth_distance", "to true face", "distance of raw vectors", "identity", digits=3),
    *(Metric(f"{g}_rmse", g, "RMSE of coefficients x 1e3", "in loop", rms=True, scale=1e3, digits=0)
      for g in ("expression", "shape", "pose", "light", "albedo")),
    *(Metric(f"{g}_mm", g, "mm, vertices", "in loop") for g in ("expression", "shape", "pose")),
    Metric("pose_deg", "pose", "degrees", "in loop", digits=1),
    *(Metric(f"{a}_error_deg", a, "degrees", "in loop", digits=1) for a in ("yaw", "pitch", "roll")),
    Metric("expression_mp", "expression", "AED_mp52 x 1e3", "independent", scale=1e3, digits=0),
    Metric("pose_mp", "pose", "APD_mp, degrees", "independent", digits=1),
    Metric("light_ball", "light on a ball", "scale-invariant error x 1e3", "in loop", scale=1e3, digits=0),
    Metric("light_angle_deg", "light direction", "degrees", "in loop", digits=1),
    Metric("skin_ita_deg", "skin tone held", "degrees of ITA", "in loop", digits=1),
    *(Metric(f"gain_{t}", f"gain {t}", "0 nothing, 1 perfect", "in loop", higher=True, worst="p5")
      for t in ("pose", "expression", "light", "shape", "albedo")),
    Metric("gain_identity", "gain identity", "0 nothing, 1 perfect", "identity", higher=True, worst="p5"),
    *(Metric(f"gain_{t}_mp", f"gain {t}", "0 nothing, 1 perfect", "independent", higher=True, worst="p5")
      for t in ("pose", "expression")),
    Metric("psnr", "PSNR", "dB", _PICTURE, higher=True, worst="none", digits=1),
    Metric("ssim", "SSIM", "Gaussian 11 px, sigma 1.5", _PICTURE, higher=True, worst="none", digits=3),
    Metric("lpips", "LPIPS", "distance", "lpips", worst="none", digits=3),
    Metric("background_psnr", "background", "dB outside the person", _PICTURE, higher=True, worst="none", digits=1),
    Metric("latency_s", "latency", "s", "wall clock", worst="none"),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One mean."""

    value: float  # over the measured outputs; in the rows' own unit, not scaled
    low: float  # 95 % interval over source identities; NaN with one person
    high: float
    with_failures: float  # the mean with failures at their worst; equal to `value` if there were none
    count: int  # values behind it
    spread: float  # standard deviation of the means of the seeds; NaN with one seed


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    """A numeric column of the rows: (N,) float64, NaN if a row lacks it."""
    values = [row.get(name) for row in rows]
    return np.array([np.nan if v is None else v for v in values], np.float64)


def values_of(metric: str, rows: Sequence[Row], threshold: float = np.nan) -> np.ndarray:
    """(N,) values of a metric of N rows of a model and an edit, NaN if unknown; `threshold` is for `same_person`."""
    if metric == "same_person":
        own = column(rows, "identity")
        return np.where(np.isfinite(own) & np.isfinite(threshold), own > threshold, np.nan)
    if metric == "same_dlib":
        own = column(rows, "identity_distance")
        return np.where(np.isfinite(own), own < DLIB_SAME_PERSON, np.nan)
    if metric.startswith("gain_"):
        after, before = _distances(metric, rows)
        return gain(after, before)
    return column(rows, metric)


def _distances(metric: str, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Distances after and before of a gain; NaN for traits that were not edited, so that rounding is no edit."""
    way = metric.removeprefix("gain_")
    asked = np.array([way.removesuffix("_mp") in edited_traits(row["traits"]) for row in rows], bool)
    after, before = (np.where(asked, column(rows, f"{when}_{way}"), np.nan) for when in ("after", "before"))
    return after, before


def cell(
    metric: Metric, rows: Sequence[Row], values: np.ndarray, reference: np.ndarray | None = None, draws: int = 1000
) -> Cell | None:
    """The mean of one metric with its interval and spread; None if nothing was measured.

    Args:
        rows: N rows of one model and edit; failures have `status` `no_face`.
        values: (N,) from `values_of`.
        reference: values of all models, whose percentile is the value of a failure.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    failed = np.array([row["status"] == "no_face" for row in rows])
    people = [row["person"] for row in rows]

    def mean(x: np.ndarray) -> float:
        return of_finite(lambda known: np.sqrt((known**2).mean()) if metric.rms else known.mean(), x)

    low, high = interval(values**2 if metric.rms else values, people, draws)
    if metric.rms:
        low, high = float(np.sqrt(low)), float(np.sqrt(high))
    counted = failed & _was_asked(metric.name, rows)
    all_in = with_failures(values, counted, metric.worst, reference)
    seeds = np.array([row["seed"] for row in rows])
    by_seed = [mean(values[seeds == s]) for s in np.unique(seeds) if known[seeds == s].any()]
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else np.nan
    return Cell(mean(values), low, high, mean(all_in), int(known.sum()), spread)


def _was_asked(metric: str, rows: Sequence[Row]) -> np.ndarray:
    """(N,) rows whose failure lowers a gain: those with a change asked, without the dropped tenth."""
    if not metric.startswith("gain_"):
        return np.ones(len(rows), bool)
    _, before = _distances(metric, rows)
    return np.asarray(np.isfinite(gain(np.zeros(len(rows)), before)))
