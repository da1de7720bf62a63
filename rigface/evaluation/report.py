"""The report card as Markdown, JSON, Parquet and one HTML file that loads nothing from elsewhere.

Path: report_card.ReportCard -> `files`. The text of a cell is made once, in `tables`; the formats only lay it out.

A cell reads `0.873 [0.86, 0.89] (0.85)`: the mean over what could be measured, its 95 % interval over source
identities, and the mean with failures at their worst where there were any. `~` marks a gain that is no better
than noise.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rigface.evaluation.metric_registry import METRICS, Cell, Row
from rigface.evaluation.report_card import CardRow, ReportCard
from rigface.metrics.leakage import edited_traits
from rigface.pages.environment import page

VERSION = "evaluation/1"
LINEAR, CLIPS = "Sweeps: achieved against asked", "Clips: smoothness and identity"
_BY_NAME = {m.name: m for m in METRICS}


@dataclass(frozen=True)
class Table:
    """A table of text. A cell is its main text and, after a line feed, a smaller note."""

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    muted: frozenset[int] = frozenset()


def tables(card: ReportCard) -> list[Table]:
    """All numbers of a card as tables of text, the main one first."""
    out = [_main(card), *_leakages(card)]
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
    if card.against:
        out.append(_against(card))
    if card.fairness:
        names = ("model", "number", "by", "worst group", "other groups", "gap")
        out.append(Table("Worst group first", names, tuple(_fair(f) for f in card.fairness)))
    return out


def _number(value: float, digits: int = 2) -> str:
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"


def shown(name: str, cell: Cell | None) -> str:
    """Text of a cell; a dash if nothing was measured."""
    if cell is None:
        return "–"
    metric = _BY_NAME[name]

    def text(value: float) -> str:
        return _number(value * metric.scale, metric.digits)

    more = [f"[{text(cell.low)}, {text(cell.high)}]"] if math.isfinite(cell.low) else []
    if not math.isclose(cell.with_failures, cell.value, rel_tol=1e-9, abs_tol=1e-12):
        more.append(f"({text(cell.with_failures)})")
    if math.isfinite(cell.spread):
        more.append(f"seeds ±{text(cell.spread)}")
    return text(cell.value) + ("\n" + " ".join(more) if more else "")


def _main(card: ReportCard) -> Table:
    head = (
        "model", "edit", "N", "fail %", "identity\ncosine", "p10", "same person\nFAR 1e-3", "same person\ndlib 0.6",
        "expression in loop\nRMSE x1e3", "expression indep.\nAED_mp52 x1e3", "pose in loop\n°", "pose indep.\nAPD_mp °",
        "light\nRMSE x1e3", "light direction\n°", "shape\nRMSE x1e3", "largest leakage\nfloors", "gain in loop",
        "gain indep.", "PSNR\ndB", "SSIM", "to true face", "face Fréchet", "background\ndB", "latency s\np50 / p95",
        "worst group\nidentity",
    )  # fmt: skip
    lines = [_line(row) for row in card.rows]
    # Columns without a number are left out.
    kept = [k for k in range(len(head)) if any(line[k] != "–" for line in lines)]
    body = tuple(tuple(line[k] for k in kept) for line in lines)
    muted = frozenset(k for k, row in enumerate(card.rows) if row.control)
    return Table(card.title, tuple(head[k] for k in kept), body, muted)


def _line(row: CardRow) -> tuple[str, ...]:
    def at(name: str) -> str:
        return shown(name, row.cells.get(name))

    leaks = [f"{_number(floors, 1)} {trait}" for trait, floors in row.leaks[:2]]
    latency = " / ".join(_number(v) for v in row.latency_p[:2]) if math.isfinite(row.latency_p[0]) else "–"
    group = "–" if row.worst_group is None else f"{_number(row.worst_group[2], 3)}\n{row.worst_group[1]}"
    return (
        row.model, row.edit, str(row.edits) + (f"\n{row.unusable} unusable" if row.unusable else ""),
        _number(100 * row.fail_share, 1), at("identity"), _number(row.identity_p10, 3), at("same_person"),
        at("same_dlib"), at("expression_rmse"), at("expression_mp"), at("pose_deg"), at("pose_mp"), at("light_rmse"),
        at("light_angle_deg"), at("shape_rmse"), "\n".join(leaks) or "–", _gains(row, ""), _gains(row, "_mp"),
        at("psnr"), at("ssim"), at("truth_distance"), _number(row.frechet, 3), at("background_psnr"), latency, group,
    )  # fmt: skip


def _gains(row: CardRow, track: str) -> str:
    """Gains of the edited traits; several are named."""
    gains = []
    for trait in sorted(edited_traits(row.traits)):
        name = f"gain_{trait}{track}"
        if name in row.cells:
            noisy = "~" if name in row.noise else ""
            gains.append((trait, noisy + shown(name, row.cells[name])))
    if len(gains) == 1:
        return gains[0][1]
    return " / ".join(f"{trait} {text.splitlines()[0]}" for trait, text in gains) or "–"


def _leakages(card: ReportCard) -> list[Table]:
    out = []
    for model, matrix in card.leakage.items():
        body = []
        for r, row in enumerate(matrix.rows):
            values = [
                f"{_number(v)}\nof 1 asked" if mine else _number(v, 1)
                for v, mine in zip(matrix.values[r], matrix.edited[r])
            ]
            body.append((row or "nothing", str(matrix.counts[r]), *values))
        out.append(Table(f"Leakage of {model}, in estimator floors", ("edited", "N", *matrix.columns), tuple(body)))
    return out


def _fair(gap_row: Any) -> tuple[str, ...]:
    metric = _BY_NAME[gap_row.metric]
    groups = [f"{g.name} {_number(g.mean * metric.scale, metric.digits)} (n={g.count})" for g in gap_row.groups]
    gap = _number(gap_row.gap * metric.scale, metric.digits)
    return gap_row.model, f"{metric.label}\n{metric.unit}", gap_row.by, groups[0], ", ".join(groups[1:]) or "–", gap


def _against(card: ReportCard) -> Table:
    body = []
    for (model, edit), differences in card.against.items():
        for name, d in differences.items():
            m = _BY_NAME[name]
            low, mean, high = (_number(v * m.scale, m.digits + 1) for v in (d.low, d.mean, d.high))
            clear = "unclear" if not d.low * d.high > 0 else "better" if (d.mean > 0) == m.higher else "worse"
            body.append(
                (model, edit, f"{m.label}\n{m.unit}; {m.extractor}", f"{mean}\n[{low}, {high}]", str(d.pairs), clear)
            )
    return Table(
        f"Against {card.baseline}, paired", ("model", "edit", "number", "difference", "pairs", ""), tuple(body)
    )


def _sources(card: ReportCard) -> list[str]:
    threshold = f"{card.threshold:.3f}" if math.isfinite(card.threshold) else "none"
    return [
        *(f"{name}: {text}" for name, text in card.extractors.items()),
        f"identity threshold {threshold} (false-accept rate 1e-3 on {card.impostors} pairs of different people in this "
        f"test set, whose mean cosine is {_number(card.impostor_mean, 3)})",
        "square brackets: 95 % interval over source identities; parentheses: with failures at their worst value "
        "(identity 0, an error its 95th percentile, a gain its 5th); ~: not above the noise of the estimator",
        f"{VERSION}; compare numbers of one run with each other, not with published ones",
        *card.notes,
    ]


def to_markdown(card: ReportCard) -> str:
    """The card as Markdown."""
    out = [f"# {card.title}", ""]
    for k, table in enumerate(tables(card)):
        out += [] if k == 0 else [f"## {table.title}", ""]
        rows = [[_escaped(c) for c in row] for row in (table.head, ("---",) * len(table.head), *table.body)]
        out += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join([*out, "## Where the numbers come from", "", *(f"- {line}" for line in _sources(card)), ""])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("~", "\\~").replace("\n", " ")


def to_html(card: ReportCard, top: str = "") -> str:
    """The card as one HTML page without scripts or anything from elsewhere; `top` is Markup that it begins with."""
    return page(
        "rigface.evaluation", "report_card", title=card.title, top=top, tables=tables(card), sources=_sources(card)
    )


def to_dict(card: ReportCard) -> dict[str, Any]:
    """The card as plain JSON values; NaN is null."""
    rows = []
    for row in card.rows:
        plain = {k: v for k, v in vars(row).items() if k != "cells"}
        plain["cells"] = {
            name: {**asdict(c), "unit": _BY_NAME[name].unit, "extractor": _extractor(card, name)}
            for name, c in row.cells.items()
        }
        rows.append(plain)
    matrices = {
        m: {**vars(x), "values": x.values.tolist(), "edited": x.edited.tolist()} for m, x in card.leakage.items()
    }
    out = {**vars(card), "version": VERSION, "rows": rows, "leakage": matrices}
    out["linearity"] = [{"model": m, "number": n, **asdict(x)} for (m, n), x in card.linearity.items()]
    out["clips"] = {m: asdict(x) for m, x in card.clips.items()}
    out["fairness"] = [asdict(f) for f in card.fairness]
    out["against"] = [
        {"model": m, "edit": e, "metric": name, **asdict(d)}
        for (m, e), x in card.against.items()
        for name, d in x.items()
    ]
    return dict(_plain(out))


def _extractor(card: ReportCard, name: str) -> str:
    source = _BY_NAME[name].extractor
    return card.extractors.get(source, source)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def to_json(card: ReportCard) -> str:
    """The card as JSON text."""
    return json.dumps(to_dict(card), indent=1, sort_keys=True, allow_nan=False)


def to_table(card: ReportCard) -> pa.Table:
    """The cells of a card for Parquet: a row per model, edit and metric, with its extractor."""
    cells = [
        {"model": r.model, "edit": r.edit, "control": r.control, "edits": r.edits, "fail_share": r.fail_share,
         "metric": name, "unit": _BY_NAME[name].unit, "extractor": _extractor(card, name), **asdict(c)}
        for r in card.rows for name, c in r.cells.items()
    ]  # fmt: skip
    metadata = {"rigface.schema": VERSION, "rigface.extractors": json.dumps(dict(card.extractors))}
    return pa.Table.from_pylist(cells).replace_schema_metadata(metadata)


def rows_table(rows: Sequence[Row], extractors: dict[str, str]) -> pa.Table:
    """The rows of `measure` for Parquet; the card can be computed from them again."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    return table.replace_schema_metadata({"rigface.schema": VERSION, "rigface.extractors": json.dumps(extractors)})


def files(card: ReportCard, rows: Sequence[Row], top: str = "") -> dict[str, bytes]:
    """Name -> content of all files of a card; `top` as in `to_html`."""
    out = {"card.md": to_markdown(card), "card.json": to_json(card), "card.html": to_html(card, top)}
    data = {name: text.encode() for name, text in out.items()}
    for name, table in (("card.parquet", to_table(card)), ("rows.parquet", rows_table(rows, dict(card.extractors)))):
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink)
        data[name] = sink.getvalue().to_pybytes()
    return data
