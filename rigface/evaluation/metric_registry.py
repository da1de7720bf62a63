"""Metrics of a report card: extractor, direction, and cost of a failure.

Path: rows of `measure_edits` -> `values_of` a metric -> `cell` -> `make_card`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rigface.evaluation.regions import DETAILED
from rigface.evaluation.strangers import UNITS
from rigface.metrics.gain import gain
from rigface.metrics.leakage import edited_traits
from rigface.metrics.statistics import Worst, interval, of_finite, with_failures
from rigface.types import DLIB_SAME_PERSON

Row = dict[str, Any]  # the columns of one edit, by `rows.measure_edits`
GAIN_FLOORS = 3.0  # a gain counts pairs whose trait differs by so many estimator floors
MIN_BALL = 0.01  # scale-invariant error of a lit ball between source and wanted light, below which light is not judged


@dataclass(frozen=True)
class Metric:
    """One number of the card."""

    name: str  # in the JSON and Parquet forms; the rows' column, unless `values_of` derives it
    label: str  # for display
    unit: str
    extractor: str  # a key of `FaceEstimator.extractors`, or the computation
    higher: bool = False  # more is better
    ideal: float | None = None  # the best value, if neither more nor less is better
    worst: Worst = "p95"  # value of a failure
    rms: bool = False  # the mean is a root mean square
    scale: float = 1.0  # factor at printing
    digits: int = 2  # after the point, at printing


@dataclass(frozen=True)
class TestSet:
    """What a whole test set says of its numbers."""

    threshold: float = np.nan  # identity above which it is the same person
    floors: Mapping[str, float] = field(default_factory=dict)  # trait or column ending -> change by noise alone

    def min_change(self, way: str) -> float:
        """Smallest asked change of a trait that counts for a gain."""
        least = GAIN_FLOORS * self.floors.get(way, 0.0)
        return max(least, MIN_BALL) if way == "light_ball" else least


UNKNOWN_SET = TestSet()
REGION_LABELS = {
    "face": "face", "features": "mouth + eyes", "rim": "rim of the face", "outline": "outline of the person",
    "background": "background",
}  # fmt: skip
_PICTURE = "pixels, data range 1"
_TRUTH = "pixels, true frame"
_LANDMARKS = "true frame, landmarks in loop"
METRICS = (
    Metric("landmarks", "landmarks", "% of the side", _LANDMARKS),
    Metric("landmarks_mouth", "lips", "% of the side", _LANDMARKS),
    *(Metric(f"psnr_{r}", f"PSNR {label}", "dB", _TRUTH, higher=True, worst="none", digits=2)
      for r, label in REGION_LABELS.items()),
    *(Metric(f"ssim_{r}", f"SSIM {label}", "Gaussian 11 px", _TRUTH, higher=True, worst="none", digits=3)
      for r, label in REGION_LABELS.items()),
    *(Metric(f"sharpness_{r}", f"sharpness {REGION_LABELS[r]}", "detail; 1 is the true frame's", _TRUTH, ideal=1.0,
             worst="none") for r in DETAILED),
    Metric("tone", "tone of the face", "distance of mean colours, CIELAB", _TRUTH, worst="none", digits=1),
    Metric("truth_distance", "to true face", "distance of raw vectors", "identity", digits=3),
    Metric("identity_distance", "to wanted face", "distance of raw vectors", "identity", digits=3),
    Metric("identity", "identity", "cosine", "identity", higher=True, worst="zero", digits=3),
    Metric("same_person", "same person", "share above the threshold", "identity", higher=True, worst="zero"),
    Metric("same_dlib", f"same person ({DLIB_SAME_PERSON})", f"share nearer than {DLIB_SAME_PERSON}", "identity",
           higher=True, worst="zero"),
    *(Metric(f"{g}_mm", g, "mm, vertices", "in loop") for g in ("expression", "shape", "pose")),
    Metric("pose_deg", "pose", "degrees", "in loop", digits=1),
    *(Metric(f"{a}_error_deg", a, "degrees", "in loop", digits=1) for a in ("yaw", "pitch", "roll")),
    Metric("expression_mp", "expression", "AED_mp52 x 1e3", "detector", scale=1e3, digits=0),
    Metric("pose_mp", "pose", "APD_mp, degrees", "detector", digits=1),
    Metric("light_ball", "light on a ball", "scale-invariant error x 1e3", "in loop", scale=1e3, digits=1),
    Metric("light_angle_deg", "light direction", "degrees", "in loop", digits=1),
    Metric("skin_ita_deg", "skin tone held", "degrees of ITA", "in loop", digits=1),
    *(Metric(f"gain_{t}", f"gain {t.removesuffix('_ball')}", "0 nothing, 1 perfect", "in loop", higher=True, worst="p5")
      for t in ("pose", "expression", "light_ball", "shape", "albedo")),
    Metric("gain_identity", "gain identity", "0 nothing, 1 perfect", "identity", higher=True, worst="p5"),
    *(Metric(f"gain_{t}_mp", f"gain {t}", "0 nothing, 1 perfect", "detector", higher=True, worst="p5")
      for t in ("pose", "expression")),
    Metric("psnr", "PSNR", "dB", _PICTURE, higher=True, worst="none", digits=1),
    Metric("lpips", "LPIPS", "distance", "lpips", worst="none", digits=3),
    Metric("background_psnr", "background kept", "dB to the source, outside the person", _PICTURE, higher=True,
           worst="none", digits=1),
    Metric("latency_s", "latency", "s", "wall clock", worst="none"),
)  # fmt: skip
_BY_STRANGER = re.compile(rf"({'|'.join(UNITS)}) by (\w+)")  # keys of `extractors`
_DIGITS = {"yaw": 1, "roll": 1, "smile": 3, "age": 1, "identity": 3}


def metrics_of(extractors: Mapping[str, str]) -> tuple[Metric, ...]:
    """The metrics of rows measured with these extractors; those of strangers first."""
    out: list[Metric] = []
    for key in extractors:
        if (match := _BY_STRANGER.fullmatch(key)) is None:
            continue
        trait, network = match.groups()
        digits, unit = _DIGITS[trait], UNITS[trait]
        if trait == "identity":
            out.append(Metric(f"truth_{trait}_{network}", f"to true face, {network}", unit, key, digits=digits))
        label = f"to wanted face, {network}" if trait == "identity" else f"{trait}, {network}"
        out.append(Metric(f"{trait}_{network}", label, unit, key, digits=digits))
        if trait != "age":
            gained = f"gain {trait}, {network}"
            unit = "0 nothing, 1 perfect"
            out.append(Metric(f"gain_{trait}_{network}", gained, unit, key, higher=True, worst="p5"))
    return (*out, *METRICS)


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


def values_of(metric: str, rows: Sequence[Row], test_set: TestSet = UNKNOWN_SET) -> np.ndarray:
    """(N,) values of a metric of N rows, NaN if unknown."""
    if metric == "same_person":
        own = column(rows, "identity")
        return np.where(np.isfinite(own) & np.isfinite(test_set.threshold), own > test_set.threshold, np.nan)
    if metric == "same_dlib":
        own = column(rows, "identity_distance")
        return np.where(np.isfinite(own), own < DLIB_SAME_PERSON, np.nan)
    if metric.startswith("gain_"):
        after, before = _distances(metric, rows)
        return gain(after, before, test_set.min_change(metric.removeprefix("gain_")))
    if metric in ("light_ball", "light_angle_deg"):
        return np.where(column(rows, "before_light_ball") >= MIN_BALL, column(rows, metric), np.nan)
    return column(rows, metric)


def trait_of(way: str) -> str:
    """The trait of an edit that a gain is about: `light_ball` -> light, `smile_fer` -> expression."""
    trait = way.partition("_")[0]
    return {"smile": "expression", "yaw": "pose", "roll": "pose"}.get(trait, trait)


def _distances(metric: str, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Distances after and before of a gain; NaN for traits that were not edited, so that rounding is no edit."""
    way = metric.removeprefix("gain_")
    asked = np.array([trait_of(way) in edited_traits(row["traits"]) for row in rows], bool)
    after, before = (np.where(asked, column(rows, f"{when}_{way}"), np.nan) for when in ("after", "before"))
    return after, before


def floors_of(rows: Sequence[Row]) -> dict[str, float]:
    """Ending of `change_...` -> its mean over rows of the estimator floor, whose picture is the source, moved."""
    names = {name.removeprefix("change_") for row in rows for name in row if name.startswith("change_")}
    means = {name: of_finite(np.mean, column(rows, f"change_{name}")) for name in names - {"background"}}
    return {name: mean for name, mean in means.items() if np.isfinite(mean)}


def cell(
    metric: Metric, rows: Sequence[Row], test_set: TestSet, reference: np.ndarray | None = None, draws: int = 1000
) -> Cell | None:
    """The mean of one metric with its interval and spread; None if nothing was measured.

    Args:
        rows: N rows of one model and edit; failures have `status` `no_face`.
        reference: values of all models, whose percentile is the value of a failure.
    """
    values = values_of(metric.name, rows, test_set)
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
    counted = failed & _was_asked(metric.name, rows, test_set)
    all_in = with_failures(values, counted, metric.worst, reference)
    seeds = np.array([row["seed"] for row in rows])
    by_seed = [mean(values[seeds == s]) for s in np.unique(seeds) if known[seeds == s].any()]
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else np.nan
    return Cell(mean(values), low, high, mean(all_in), int(known.sum()), spread)


def _was_asked(metric: str, rows: Sequence[Row], test_set: TestSet) -> np.ndarray:
    """(N,) rows whose failure lowers a gain: those that the gain counts."""
    if not metric.startswith("gain_"):
        return np.ones(len(rows), bool)
    _, before = _distances(metric, rows)
    least = test_set.min_change(metric.removeprefix("gain_"))
    return np.asarray(np.isfinite(gain(np.zeros(len(rows)), before, least)))
