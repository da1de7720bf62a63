"""Headline tables: the main numbers of each task, for a terminal, the top of a page, a model card.

Path: ReportCard -> `headlines` -> rich table, HTML, Markdown. Everything else is in `card_tables.tables`.
"""

import math
import re
from dataclasses import dataclass

from rigface.evaluation.baselines import FLOOR
from rigface.evaluation.metric_registry import Metric
from rigface.evaluation.report_card import CardRow, ReportCard

# Names of metrics in their order; `*` stands for the network of a stranger.
COLUMNS = (
    "landmarks", "landmarks_mouth", "psnr_features", "psnr_face", "psnr_rim", "psnr_outline", "sharpness_face",
    "sharpness_features", "tone",
    "truth_distance", "truth_identity_*", "identity_distance", "identity_*", "gain_pose", "gain_yaw_*",
    "gain_expression", "gain_smile_*", "gain_light_ball", "light_angle_deg", "yaw_*", "roll_*", "age_*",
    "background_psnr", "latency_s",
)  # fmt: skip
WITHOUT_TRUTH = ("identity_*", "roll_*", "background_psnr")  # left out where a true frame says more
MIN_COUNT = 5  # edits that a gain must count for a headline
SWEEP = " sweep"  # suffix of the names of sweeps


@dataclass(frozen=True)
class Headline:
    """One task's table."""

    edit: str  # the task
    edits: int  # their number, seeds not counted
    head: tuple[str, ...]  # labels; a second line is smaller
    body: tuple[tuple[str, ...], ...]  # words
    best: frozenset[tuple[int, int]]  # (row, column) of the best model's cells
    controls: frozenset[int]  # rows that are controls


def value_of(row: CardRow, metric: str) -> float:
    """A headline's number: the mean with failures at their worst; NaN if not measured."""
    cell = row.cells.get(metric)
    return float("nan") if cell is None else cell.with_failures


def headlines(card: ReportCard) -> list[Headline]:
    """One table per edit of a card. The estimator floor and sweeps are left out."""
    edits = [e for e in dict.fromkeys(row.edit for row in card.rows) if not e.endswith(SWEEP)]
    by_edit = [[r for r in card.rows if r.edit == edit and r.model != FLOOR] for edit in edits]
    return [_headline(edit, rows, columns_of(card, rows)) for edit, rows in zip(edits, by_edit)]


def columns_of(card: ReportCard, rows: list[CardRow]) -> list[Metric]:
    """The metrics of a headline that some of its rows have."""
    has_truth = any("truth_distance" in row.cells for row in rows)
    patterns = [c for c in COLUMNS if not (has_truth and c in WITHOUT_TRUTH)]
    out: list[Metric] = []
    for pattern in patterns:
        name = re.compile(re.escape(pattern).replace(r"\*", r"\w+"))
        out += [
            m
            for m in card.metrics
            if name.fullmatch(m.name) and ("*" not in pattern or " by " in m.extractor) and m not in out
        ]
    return [m for m in out if _count(m.name, rows) >= (MIN_COUNT if m.name.startswith(("gain_", "light_")) else 1)]


def _count(metric: str, rows: list[CardRow]) -> int:
    """The most edits that a row of the metric counts."""
    return max((row.cells[metric].count for row in rows if metric in row.cells), default=0)


def _headline(edit: str, rows: list[CardRow], columns: list[Metric]) -> Headline:
    body = [[row.model, _text(100 * (1 - row.fail_share), 1)] for row in rows]
    best = set()
    models = [k for k, row in enumerate(rows) if not row.control]
    for place, metric in enumerate(columns, 2):
        values = [metric.scale * value_of(row, metric.name) for row in rows]
        for line, value in zip(body, values):
            line.append(_text(value, metric.digits))
        known = {k: _badness(metric, values[k]) for k in models if math.isfinite(values[k])}
        if len(known) > 1:
            top = min(known.values())
            best |= {(k, place) for k, bad in known.items() if round(bad, metric.digits) == round(top, metric.digits)}
    head = ("", "face %\nfound", *(_label(metric, rows) for metric in columns))
    controls = frozenset(k for k, row in enumerate(rows) if row.control)
    edits = max(row.edits for row in rows if row.model != FLOOR)
    return Headline(edit, edits, head, tuple(map(tuple, body)), frozenset(best), controls)


def _badness(metric: Metric, value: float) -> float:
    if metric.ideal is not None:
        return abs(value - metric.ideal * metric.scale)
    return -value if metric.higher else value


def _label(metric: Metric, rows: list[CardRow]) -> str:
    if metric.name.startswith("gain_"):
        return f"{metric.label}\nof {_count(metric.name, rows)} edits"
    return f"{metric.label}\n{metric.unit}"


def _text(value: float, digits: int) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"
