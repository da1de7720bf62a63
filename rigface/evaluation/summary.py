"""Headline tables: the main numbers of each task, for a terminal, the top of a page, a model card.

Path: ReportCard -> `headlines` -> rich table, HTML, Markdown. Everything else is in `report.tables`.
"""

import math
from dataclasses import dataclass

from rigface.evaluation.baselines import FLOOR
from rigface.evaluation.report_card import CardRow, ReportCard

# (metric, label, digits, factor, more is better); a column is shown if some row has it
COLUMNS: tuple[tuple[str, str, int, float, bool], ...] = (
    ("psnr", "PSNR\ndB", 2, 1, True),
    ("truth_distance", "to true face\ndlib distance", 3, 1, False),
    ("same_dlib", "same %\nnearer than 0.6", 0, 100, True),
    ("gain_pose", "gain pose\n0 none, 1 perfect", 2, 1, True),
    ("gain_expression", "gain expr.", 2, 1, True),
    ("gain_light", "gain light", 2, 1, True),
    ("latency_s", "time\ns an edit", 2, 1, False),
)


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
    return [_headline(edit, [r for r in card.rows if r.edit == edit and r.model != FLOOR]) for edit in edits]


def _headline(edit: str, rows: list[CardRow]) -> Headline:
    columns = [c for c in COLUMNS if any(math.isfinite(value_of(row, c[0])) for row in rows)]
    found_share = [100 * (1 - row.fail_share) for row in rows]
    body = [[row.model, _text(share, 1)] for row, share in zip(rows, found_share)]
    best = set()
    models = [k for k, row in enumerate(rows) if not row.control]
    for place, (metric, _, digits, factor, higher) in enumerate(columns, 2):
        values = [factor * value_of(row, metric) for row in rows]
        for line, value in zip(body, values):
            line.append(_text(value, digits))
        known = {k: values[k] for k in models if math.isfinite(values[k])}
        if len(known) > 1:
            top = (max if higher else min)(known.values())
            best |= {(k, place) for k, value in known.items() if round(value, digits) == round(top, digits)}
    head = ("", "face %\nfound", *(label for _, label, *_ in columns))
    controls = frozenset(k for k, row in enumerate(rows) if row.control)
    return Headline(edit, min(row.edits for row in rows), head, tuple(map(tuple, body)), frozenset(best), controls)


def _text(value: float, digits: int) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"
