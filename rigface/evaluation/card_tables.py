"""Tables of a report card as text: the one place where a number becomes words.

Path: ReportCard -> `tables` -> Markdown, HTML (`report.py`), the terminal.

A cell reads `0.873 [0.86, 0.89] (0.85)`: the mean over what could be measured, its 95 % interval over source
identities, and the mean with failures at their worst where there were any. `~` marks a gain that is no better
than noise, `n` the pairs that a gain counts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rigface.evaluation.claims import claims, verdict
from rigface.evaluation.metric_registry import Cell, Metric
from rigface.evaluation.report_card import CardRow, ReportCard
from rigface.evaluation.summary import headlines
from rigface.metrics.statistics import Difference

LINEAR, CLIPS = "Sweeps: achieved against asked", "Clips: smoothness and identity"
CLAIMS = "Claims"
HEAT_STEPS = (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0)  # floors of leakage at which a cell becomes darker


@dataclass(frozen=True)
class Table:
    """A table of text. A cell is its main text and, after a line feed, a smaller note."""

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    muted: frozenset[int] = frozenset()  # rows
    bold: frozenset[tuple[int, int]] = frozenset()  # (row, column)
    heat: Mapping[tuple[int, int], int] = field(default_factory=dict)  # (row, column) -> 0 to `len(HEAT_STEPS)`


def short_tables(card: ReportCard) -> list[Table]:
    """The main numbers of each task, a row per number, and what may be claimed of them."""
    out = []
    for h in headlines(card):
        body = tuple((label.replace("\n", ", "), *values) for label, *values in zip(h.head, *h.body))[1:]
        bold = frozenset((place - 1, row + 1) for row, place in h.best)
        out.append(Table(f"{h.edit} ({h.edits} edits)", ("", *(line[0] for line in h.body)), body, bold=bold))
    if card.against:
        every = _claims(card)
        kept = tuple(line for line in every.body if line[-1] != "nothing")
        title = f"{every.title}; nothing in {len(every.body) - len(kept)} of {len(every.body)} comparisons"
        out.append(Table(title, every.head, kept))
    return out


def tables(card: ReportCard) -> list[Table]:
    """All numbers of a card as tables of text, the main one first."""
    out = [_main(card)]
    if card.against:
        out.append(_claims(card))
    if card.changes:
        out.append(_differences(f"Changed since {card.older}", card, card.changes, clear_only=True))
    out += _leakages(card)
    if card.linearity:
        rho = ("rho\nmedian", "rho\np10", "slope", "rho > 0.9")
        swept = [
            (m, n, str(x.sweeps), *(_number(v) for v in (x.rho, x.rho_p10, x.slope, x.share_ordered, x.reach)))
            for (m, n), x in card.linearity.items()
        ]
        out.append(Table(LINEAR, ("model", "number", "sweeps", *rho, "range kept\nas one person"), tuple(swept)))
    if card.clips:
        jitter, likeness = ("jitter pose\ntimes the driving clip's", "jitter expression"), "identity\ncosine"
        lines = [
            (
                *(m, str(x.clips), _number(x.pose), _number(x.expression)),
                *(_number(v, 3) for v in (x.identity, x.drift, x.worst)),
            )
            for m, x in card.clips.items()
        ]
        heads = ("model", "clips", *jitter, likeness, "drift\nper minute", "worst frame")
        out.append(Table(CLIPS, heads, tuple(lines)))
    if card.turns:
        columns = ("model", "turn asked", "edits", "identity", "pose error\ndegrees")
        turned = [(m, b, str(n), _number(i, 3), _number(p, 1)) for m, b, n, i, p in card.turns]
        out.append(Table("Identity by the turn asked, never without the pose error", columns, tuple(turned)))
    if card.fairness:
        by_name = {m.name: m for m in card.metrics}
        names = ("model", "number", "by", "worst group", "other groups", "gap")
        out.append(Table("Worst group first", names, tuple(_fair(f, by_name[f.metric]) for f in card.fairness)))
    if card.against:
        out.append(_differences(f"Against {card.baseline}, paired", card, card.against))
    return out


def _number(value: float, digits: int = 2) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"


def shown(metric: Metric, cell: Cell | None, is_noise: bool = False) -> str:
    """Text of a cell; a dash if nothing was measured."""
    if cell is None:
        return "–"

    def text(value: float) -> str:
        return _number(value * metric.scale, metric.digits)

    more = [f"[{text(cell.low)}, {text(cell.high)}]"] if math.isfinite(cell.low) else []
    if not math.isclose(cell.with_failures, cell.value, rel_tol=1e-9, abs_tol=1e-12):
        more.append(f"({text(cell.with_failures)})")
    if math.isfinite(cell.spread):
        more.append(f"seeds ±{text(cell.spread)}")
    if metric.name.startswith("gain_"):
        more.append(f"n={cell.count}")
    return ("~" if is_noise else "") + text(cell.value) + ("\n" + " ".join(more) if more else "")


def _main(card: ReportCard) -> Table:
    lead = ("model", "edit", "N", "fail %")
    measured = [m for m in card.metrics if any(m.name in row.cells for row in card.rows)]
    rest: dict[str, Callable[[CardRow], str]] = {
        "largest leakage\nfloors": lambda r: "\n".join(f"{_number(x, 1)} {t}" for t, x in r.leaks[:2]) or "–",
        "face Fréchet": lambda r: _number(r.frechet, 3),
        "FID": lambda r: _number(r.fid, 1),
        "KID\nx 1e3": lambda r: _number(1e3 * r.kid),
        "latency s\np50 / p95": lambda r: " / ".join(_number(v) for v in r.latency_p[:2]),
        "worst group\nidentity": lambda r: (
            "–" if r.worst_group is None else f"{_number(r.worst_group[2], 3)}\n{r.worst_group[1]}"
        ),
    }
    lines = [
        (
            *(row.model, row.edit, str(row.edits) + (f"\n{row.unusable} unusable" if row.unusable else "")),
            _number(100 * row.fail_share, 1),
            *(shown(m, row.cells.get(m.name), m.name in row.noise) for m in measured),
            *(text(row) for text in rest.values()),
        )
        for row in card.rows
    ]
    head = (*lead, *(f"{m.label}\n{m.unit}; {m.extractor}" for m in measured), *rest)
    kept = [k for k in range(len(head)) if k < 4 or any(line[k].strip("– /") for line in lines)]
    body = tuple(tuple(line[k] for k in kept) for line in lines)
    muted = frozenset(k for k, row in enumerate(card.rows) if row.control)
    return Table(card.title, tuple(head[k] for k in kept), body, muted)


def _leakages(card: ReportCard) -> list[Table]:
    out = []
    for model, matrix in card.leakage.items():
        body, heat = [], {}
        for r, row in enumerate(matrix.rows):
            values = []
            for c, (value, is_edited) in enumerate(zip(matrix.values[r], matrix.edited[r])):
                values.append(f"{_number(value)}\nof 1 asked" if is_edited else _number(value, 1))
                if not is_edited and math.isfinite(value):
                    heat[r, c + 2] = sum(value >= step for step in HEAT_STEPS)
            body.append((row or "nothing", str(matrix.counts[r]), *values))
        title = f"Leakage of {model}, in estimator floors"
        out.append(Table(title, ("edited", "N", *matrix.columns), tuple(body), heat=heat))
    return out


def _fair(gap_row: Any, metric: Metric) -> tuple[str, ...]:
    groups = [f"{g.name} {_number(g.mean * metric.scale, metric.digits)} (n={g.count})" for g in gap_row.groups]
    gap = _number(gap_row.gap * metric.scale, metric.digits)
    return gap_row.model, f"{metric.label}\n{metric.unit}", gap_row.by, groups[0], ", ".join(groups[1:]) or "–", gap


def _differences(
    title: str, card: ReportCard, places: Mapping[tuple[str, str], Mapping[str, Difference]], clear_only: bool = False
) -> Table:
    body, by_name, compared = [], {m.name: m for m in card.metrics}, 0
    for (model, edit), differences in places.items():
        for name, d in differences.items():
            m = by_name[name]
            low, mean, high = (_number(v * m.scale, m.digits + 1) for v in (d.low, d.mean, d.high))
            compared += 1
            if not clear_only or verdict(m, d) != "unclear":
                number = f"{m.label}\n{m.unit}; {m.extractor}"
                body.append((model, edit, number, f"{mean}\n[{low}, {high}]", str(d.pairs), verdict(m, d)))
    if clear_only:
        title += f": {len(body)} of {compared} numbers beyond noise (by chance about one in twenty)"
    return Table(title, ("model", "edit", "number", "difference", "pairs", ""), tuple(body))


def _claims(card: ReportCard) -> Table:
    head = ("model", "edit", "trait", "in loop", "strangers", "may be claimed")
    body = tuple((c.model, c.edit, c.trait, c.in_loop, c.strangers, c.text) for c in claims(card))
    return Table(f"{CLAIMS} against {card.baseline}: both must agree", head, body)
