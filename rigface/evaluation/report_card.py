"""Report card: one row per model and edit, controls included, and tables that explain the rows.

Path: rows of `measure_edits` -> `make_card` -> `report` (Markdown, JSON, Parquet, HTML), or a few numbers for a
training curve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rigface.evaluation.baselines import CONTROLS, FLOOR, SHAKEN
from rigface.evaluation.fairness import Fairness, fairness, turns, worst_group
from rigface.evaluation.metric_registry import (
    UNKNOWN_SET,
    Cell,
    Metric,
    Row,
    TestSet,
    cell,
    column,
    floors_of,
    metrics_of,
    values_of,
)
from rigface.metrics import identity, image, leakage
from rigface.metrics.gain import Linearity, linearity
from rigface.metrics.statistics import DRAWS, Difference, of_finite, paired_difference, with_failures
from rigface.metrics.video import Smoothness, smoothness


@dataclass(frozen=True, eq=False)
class CardRow:
    """Results of one model on one edit."""

    model: str
    edit: str
    traits: str
    control: bool
    edits: int  # number measured
    unusable: int  # number with no face in source or target
    fail_share: float  # share of the outputs without a face
    cells: Mapping[str, Cell]  # metric -> its mean; only those that could be measured
    identity_p10: float  # the identity that nine in ten outputs reach, failures at 0
    frechet: float  # Fréchet distance of the face embeddings of outputs and true (or source) photographs; NaN with few
    fid: float  # of Inception features of the same; NaN without them
    kid: float  # kernel distance of the same features
    latency_p: tuple[float, float, float]  # p50, p95, p99 in seconds; NaN if not given
    leaks: tuple[tuple[str, float], ...]  # the unedited traits and their change in floors, the largest first
    worst_group: tuple[str, str, float] | None  # the grouping, the group, and its identity with failures
    noise: frozenset[str]  # gains that are not above those of the estimator floor


@dataclass(frozen=True, eq=False)
class ReportCard:
    """Results of models on one test set, in one run."""

    title: str
    rows: tuple[CardRow, ...]  # models first, controls last
    extractors: Mapping[str, str]  # source of each kind of number: name, version, crop rule
    metrics: tuple[Metric, ...]  # numbers of the cells; those of strangers first
    floors: Mapping[str, float]  # trait or column ending -> change by the estimator's noise
    threshold: float  # of identity, for this test set
    impostors: int  # pairs of strangers behind the threshold
    impostor_mean: float  # their mean cosine
    leakage: Mapping[str, leakage.Leakage]  # model -> matrix
    linearity: Mapping[tuple[str, str], Linearity]  # (model, number swept) -> agreement with the asked values
    fairness: tuple[Fairness, ...]  # of every model except controls
    turns: tuple[tuple[str, str, int, float, float], ...]  # (model, bin of yaw, edits, mean identity, mean pose error)
    clips: Mapping[str, Smoothness] = field(default_factory=dict)  # by model
    baseline: str | None = None
    # (model, edit) -> metric -> model minus baseline, if there is one
    against: Mapping[tuple[str, str], Mapping[str, Difference]] = field(default_factory=dict)
    older: str | None = None  # where the rows of an earlier run were
    # (model, edit) -> metric -> this run minus the earlier one, on edits of both
    changes: Mapping[tuple[str, str], Mapping[str, Difference]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # for the reader

    def row(self, model: str, edit: str) -> CardRow:
        """The row of a model and an edit; KeyError if there is none."""
        for row in self.rows:
            if (row.model, row.edit) == (model, edit):
                return row
        raise KeyError((model, edit))


def make_card(
    rows: Sequence[Row],
    extractors: Mapping[str, str],
    *,
    title: str = "Report card",
    baseline: str | None = None,
    draws: int = DRAWS,
    notes: Sequence[str] = (),
    older: tuple[str, Sequence[Row]] | None = None,
) -> ReportCard:
    """Make a card of rows of `measure_edits`, of any number of models and the controls, from one estimator at one size.

    Args:
        rows: N rows.
        extractors: of the estimator and the strangers.
        baseline: every other model is compared with it, pair by pair.
        draws: of each bootstrap.
        older: place and rows of an earlier run, which is compared with this one.
    """
    models = sorted(dict.fromkeys(r["model"] for r in rows), key=lambda m: m in CONTROLS)
    edits = list(dict.fromkeys(r["edit"] for r in rows))
    strangers = _impostors(rows)
    metrics, test_set = metrics_of(extractors), TestSet(identity.threshold_at(strangers), floors_of(_of_floor(rows)))
    shown = [m for m in models if m != SHAKEN]  # everywhere but among clips, whose noise it tells
    matrices = _leakage(rows, shown)
    by_place = _by_place(rows)
    out = []
    for model in shown:
        for edit in edits:
            own = by_place.get((model, edit), [])
            if not own:
                continue
            peers = [r for r in rows if r["edit"] == edit and not r["control"]] or own
            floor = _usable(by_place.get((FLOOR, edit), []))
            out.append(_row(own, _usable(peers), floor, metrics, test_set, matrices.get(model), draws))
    named = [m for m in models if m not in CONTROLS]
    compared = named if baseline is None else [m for m in shown if m != baseline]
    before = _by_place([] if older is None else older[1])
    return ReportCard(
        title=title,
        rows=tuple(sorted(out, key=lambda r: edits.index(r.edit))),
        extractors=dict(extractors),
        metrics=metrics,
        floors=test_set.floors,
        threshold=test_set.threshold,
        impostors=len(strangers),
        impostor_mean=float(strangers.mean()) if len(strangers) else np.nan,
        leakage=matrices,
        linearity=_linearity(rows, test_set.threshold),
        fairness=tuple(f for m in named for f in fairness(m, _usable(rows), metrics)),
        turns=tuple(t for m in named for t in turns(m, _usable(rows))),
        clips={m: s for m in models if m != FLOOR and (s := smoothness([r for r in _usable(rows) if r["model"] == m]))},
        baseline=baseline,
        against={} if baseline is None else {
            (m, e): found for m in compared for e in edits
            if (found := compare(by_place.get((m, e), []), by_place.get((baseline, e), []), metrics, test_set, draws))
        },
        older=None if older is None else older[0],
        changes={
            place: found for place, own in by_place.items() if place[0] != FLOOR
            if (found := compare(own, before.get(place, []), metrics, test_set, draws))
        },
        notes=(*notes, *_notes(rows, strangers, extractors)),
    )  # fmt: skip


def _by_place(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    out: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        out.setdefault((row["model"], row["edit"]), []).append(row)
    return out


def compare(
    a: Sequence[Row], b: Sequence[Row], metrics: Sequence[Metric], test_set: TestSet = UNKNOWN_SET, draws: int = DRAWS
) -> dict[str, Difference]:
    """Two models on one edit: every metric's difference a - b on the pairs (key, seed) that both have."""
    others = {(r["key"], r["seed"]): r for r in _usable(b)}
    pairs = [(r, others[r["key"], r["seed"]]) for r in _usable(a) if (r["key"], r["seed"]) in others]
    if not pairs:
        return {}
    rows_a, rows_b = [p[0] for p in pairs], [p[1] for p in pairs]
    out = {}
    for metric in metrics:
        x, y = values_of(metric.name, rows_a, test_set), values_of(metric.name, rows_b, test_set)
        if metric.ideal is not None:  # the distance to it
            x, y = np.abs(x - metric.ideal), np.abs(y - metric.ideal)
        if np.isfinite(x - y).any():
            out[metric.name] = paired_difference(x, y, [r["person"] for r in rows_a], draws)
    return out


def _usable(rows: Sequence[Row]) -> list[Row]:
    return [r for r in rows if r["status"] != "unusable"]


def _row(
    rows: Sequence[Row], peers: Sequence[Row], floor: Sequence[Row], metrics: Sequence[Metric], test_set: TestSet,
    matrix: leakage.Leakage | None, draws: int,
) -> CardRow:  # fmt: skip
    own, model, edit = _usable(rows), rows[0]["model"], rows[0]["edit"]
    failed = np.array([r["status"] == "no_face" for r in own], bool)
    cells, noise = {}, set()
    for metric in metrics:
        found = cell(metric, own, test_set, values_of(metric.name, peers, test_set), draws)
        if found is None:
            continue
        cells[metric.name] = found
        if metric.name.startswith("gain_") and floor and model != FLOOR:
            floor_gain = np.abs(values_of(metric.name, floor, test_set))
            if np.isfinite(floor_gain).any() and found.value <= np.nanmean(floor_gain):
                noise.add(metric.name)
    waits = column(rows, "latency_s")
    waits = waits[np.isfinite(waits)]
    traits = rows[0]["traits"]
    return CardRow(
        model=model,
        edit=edit,
        traits=traits,
        control=model in CONTROLS,
        edits=len(own),
        unusable=len(rows) - len(own),
        fail_share=float(failed.mean()) if len(own) else np.nan,
        cells=cells,
        identity_p10=of_finite(
            lambda known: np.percentile(known, 10), with_failures(column(own, "identity"), failed, "zero")
        ),
        frechet=_frechet(own),
        fid=image.frechet(_vectors(own, "features_output"), _vectors(own, "features_goal")),
        kid=image.kernel_distance(_vectors(own, "features_output"), _vectors(own, "features_goal")),
        latency_p=tuple(np.percentile(waits, (50, 95, 99)).tolist()) if len(waits) else (np.nan,) * 3,
        leaks=() if matrix is None or traits not in matrix.rows else tuple(matrix.ranked(traits)),
        worst_group=worst_group(own),
        noise=frozenset(noise),
    )


def _vectors(rows: Sequence[Row], name: str) -> np.ndarray:
    found = [v for r in rows if (v := r.get(name)) is not None and np.isfinite(v).all()]
    return np.array(found, np.float64).reshape(len(found), -1 if found else 0)


def _frechet(rows: Sequence[Row]) -> float:
    """Fréchet distance of outputs and, for the same edits, the true frames, or else the sources."""
    done = [r for r in rows if r["status"] == "ok"]
    true = [r for r in done if np.isfinite(column([r], "truth_distance")).all()]
    return image.frechet(
        _vectors(true or done, "vector_output"), _vectors(true or done, "vector_goal" if true else "vector_source")
    )


def _impostors(rows: Sequence[Row]) -> np.ndarray:
    """Cosines of strangers among the photographs of this test set, each photograph once."""
    seen: dict[bytes, tuple[np.ndarray, str]] = {}
    for row in rows:
        for name, person in (("vector_source", row["person"]), ("vector_goal", row["target_person"])):
            vector = row.get(name)
            if vector is not None and np.isfinite(vector).all():
                array = np.asarray(vector, np.float32)
                seen[array.tobytes()] = (array, person)
    if not seen:
        return np.zeros(0)
    vectors, people = zip(*seen.values())
    return identity.impostor_cosines(np.stack(vectors), np.array(people))


def _of_floor(rows: Sequence[Row]) -> list[Row]:
    return [r for r in rows if r["model"] == FLOOR and r["status"] == "ok"]


def _leakage(rows: Sequence[Row], models: Sequence[str]) -> dict[str, leakage.Leakage]:
    floor = {**floors_of(_of_floor(rows)), "background": leakage.BACKGROUND_FLOOR}
    out = {}
    for model in models:
        own = [r for r in rows if r["model"] == model and r["status"] == "ok"]
        if own and model != FLOOR:
            changes, along, asked = (
                {t: column(own, f"{half}_{t}") for t in leakage.TRAITS} for half in ("change", "along", "asked")
            )
            out[model] = leakage.leakage_matrix([r["traits"] for r in own], changes, along, asked, floor)
    return out


def _linearity(rows: Sequence[Row], threshold: float) -> dict[tuple[str, str], Linearity]:
    sweeps: dict[tuple[str, str], dict[tuple[str, int], list[Row]]] = {}
    for row in _usable(rows):
        if row["sweep"] is not None and row["model"] != FLOOR:
            by_seed = sweeps.setdefault((row["model"], row["number"]), {})
            by_seed.setdefault((row["sweep"], row["seed"]), []).append(row)
    out = {}
    for place, by_seed in sweeps.items():
        longest = max(map(len, by_seed.values()))
        asked, got, same = (
            np.stack(
                [np.pad(column(own, name), (0, longest - len(own)), constant_values=np.nan) for own in by_seed.values()]
            )
            for name in ("asked", "achieved", "identity")
        )
        out[place] = linearity(asked, got, same, None if np.isnan(threshold) else threshold)
    return out


def _notes(rows: Sequence[Row], strangers: np.ndarray, extractors: Mapping[str, str]) -> list[str]:
    out = []
    if 0 < len(strangers) < 1 / identity.FALSE_ACCEPTS:
        out.append(
            f"Only {len(strangers)} pairs of strangers: a false-accept rate of {identity.FALSE_ACCEPTS:g} cannot be "
            f"told apart from anything below {3 / len(strangers):.1g}; the threshold is the largest of them."
        )
    skipped = sum(bool(r.get("light_angle_skipped")) for r in rows)
    if skipped:
        out.append(f"The direction of light was skipped on {skipped} outputs with no clear direction.")
    if not any(r["model"] == FLOOR for r in rows):
        out.append("There are no estimator-floor rows, so leakage has no unit and gains are not compared with noise.")
    if not any(" by " in name for name in extractors):
        out.append(
            "No stranger judged: every reading here is by networks of the loop, which a model can move without moving "
            "the picture."
        )
    if not np.isfinite(column(rows, "lpips")).any():
        out.append("LPIPS, FID and KID are not in this card: their weights were not given (--lpips, --inception).")
    return out
