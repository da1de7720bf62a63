"""Means by skin tone, pose and face size, the worst-served group first.

Path: rows of `measure_edits` -> fairness, turns, worst_group -> `make_card`.

Groups are made by the estimate of the source. Its skin tone is measured on one photograph, light included, so a class
is no property of a person.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rigface.evaluation.metric_registry import METRICS, Metric, Row, column, values_of
from rigface.metrics import identity
from rigface.metrics.light import ita_class
from rigface.metrics.statistics import Group, of_finite, with_failures, worst_first

FACE_PX_EDGES = (0.0, 64.0, 96.0, 128.0, 192.0, 256.0, 1e9)
FAIR = ("truth_distance", "landmarks", "psnr_features", "psnr_face", "identity_distance", "pose_deg", "light_ball")
MIN_GROUP = 5  # values; the mean of fewer is chance


@dataclass(frozen=True, eq=False)
class Fairness:
    """Means by group, the worst-served first; failures at their worst value included."""

    model: str
    metric: str
    by: str
    groups: tuple[Group, ...]
    gap: float


def groupings(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The group of each row, by grouping: skin tone (ITA), yaw and face size of the source."""
    turned, sized = column(rows, "source_yaw_deg"), column(rows, "source_face_px")
    yaws, sizes = identity.bin_names(), identity.bin_names(FACE_PX_EDGES, " px")
    return {
        "skin tone": [ita_class(a) for a in column(rows, "source_ita_deg")],
        "yaw": [yaws[i] if i >= 0 else "unknown" for i in identity.bins_of(turned)],
        "face size": [sizes[i] if i >= 0 else "unknown" for i in identity.bins_of(sized, FACE_PX_EDGES)],
    }


def all_in(metric: Metric, rows: Sequence[Row]) -> np.ndarray:
    """(N,) values of a metric with failures at their worst."""
    failed = np.array([r["status"] == "no_face" for r in rows], bool)
    return with_failures(values_of(metric.name, rows), failed, metric.worst)


def fairness(model: str, rows: Sequence[Row], metrics: Sequence[Metric] = METRICS) -> list[Fairness]:
    """One model's means by each grouping, for each metric of `FAIR` and of strangers; `rows` may be of many models."""
    own, out = [r for r in rows if r["model"] == model], []
    for metric in (m for m in metrics if m.name in FAIR or (m not in METRICS and not m.name.startswith("gain_"))):
        values = all_in(metric, own)
        for by, groups in groupings(own).items():
            table, gap = worst_first(values, groups, metric.higher, MIN_GROUP)
            if table:
                out.append(Fairness(model, metric.name, by, tuple(table), gap))
    return out


def worst_group(rows: Sequence[Row]) -> tuple[str, str, float] | None:
    """The worst-served of all groups with enough values, by identity."""
    identity_metric = next(m for m in METRICS if m.name == "identity")
    values, worst = all_in(identity_metric, rows), []
    for by, groups in groupings(rows).items():
        table, _ = worst_first(values, groups, True, MIN_GROUP)
        worst += [(g.mean, by, g.name) for g in table[:1] if g.count >= MIN_GROUP and len(table) > 1]
    if not worst:
        return None
    mean, by, name = min(worst)
    return by, name, mean


def turns(model: str, rows: Sequence[Row]) -> list[tuple[str, str, int, float, float]]:
    """(model, bin of the yaw asked, edits, mean identity, mean pose error in degrees), failures at their worst."""
    own = [r for r in rows if r["model"] == model]
    place = identity.bins_of(column(own, "turn_yaw_deg"))
    by_name = {m.name: m for m in METRICS}
    same, pose = (all_in(by_name[name], own) for name in ("identity", "pose_deg"))
    out = []
    for k, name in enumerate(identity.bin_names()):
        here = (place == k) & np.isfinite(pose)
        if here.any():
            likeness = of_finite(np.mean, same[here])
            out.append((model, name, int(here.sum()), likeness, float(pose[here].mean())))
    return out
