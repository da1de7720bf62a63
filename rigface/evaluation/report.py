"""The report card as Markdown, JSON, Parquet and one HTML file that loads nothing from elsewhere.

Path: report_card.ReportCard -> `files`. The text of a cell is made in `card_tables.py`; the formats only lay it out.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rigface.evaluation.card_tables import Table, short_tables, tables
from rigface.evaluation.metric_registry import Metric, Row
from rigface.evaluation.report_card import ReportCard
from rigface.pages.environment import page

VERSION = "evaluation/3"
ALL, SOURCES = "All figures", "Where the numbers come from"


def _sources(card: ReportCard) -> list[str]:
    threshold = f"{card.threshold:.3f}" if math.isfinite(card.threshold) else "none"
    return [
        *(f"{name}: {text}" for name, text in card.extractors.items()),
        f"identity threshold {threshold} (false-accept rate 1e-3 on {card.impostors} pairs of different people in this "
        f"test set, whose mean cosine is {card.impostor_mean:.3f})",
        "square brackets: 95 % interval over source identities; parentheses: with failures at their worst value "
        "(identity 0, an error its 95th percentile, a gain its 5th); ~: not above the noise of the estimator",
        "gains count pairs that differ in the trait by three estimator floors or more (n of them), light a lit ball "
        "with a scale-invariant error of 0.01 or more",
        f"{VERSION}; compare numbers of one run with each other, not with published ones",
        *card.notes,
    ]


def to_markdown(card: ReportCard) -> str:
    """The card as Markdown: the short tables, all figures, sources."""
    out = [f"# {card.title}", ""]
    for table in short_tables(card):
        out += [f"## {table.title}", "", *_markdown_table(table)]
    for k, table in enumerate(tables(card)):
        out += [f"## {table.title if k else ALL}", "", *_markdown_table(table)]
    return "\n".join([*out, f"## {SOURCES}", "", *(f"- {line}" for line in _sources(card)), ""])


def _markdown_table(table: Table) -> list[str]:
    body = [
        [f"**{_escaped(c)}**" if (r, k) in table.bold else _escaped(c) for k, c in enumerate(row)]
        for r, row in enumerate(table.body)
    ]
    head = [_escaped(c) for c in table.head]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)] + [""]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("~", "\\~").replace("\n", " ")


def to_html(card: ReportCard, top: str = "") -> str:
    """The card as one HTML page without scripts or anything from elsewhere; `top` is Markup that it begins with."""
    return page(
        "rigface.evaluation", "report_card", title=card.title, top=top, tables=tables(card), sources=_sources(card)
    )


def to_dict(card: ReportCard) -> dict[str, Any]:
    """The card as plain JSON values; NaN is null."""
    rows, by_name = [], {m.name: m for m in card.metrics}
    for row in card.rows:
        plain = {k: v for k, v in vars(row).items() if k != "cells"}
        plain["cells"] = {
            name: {**asdict(c), "unit": by_name[name].unit, "extractor": _extractor(card, by_name[name])}
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
    out["metrics"] = [asdict(m) for m in card.metrics]
    for kind in ("against", "changes"):
        out[kind] = [
            {"model": m, "edit": e, "metric": name, **asdict(d)}
            for (m, e), x in getattr(card, kind).items()
            for name, d in x.items()
        ]
    return dict(_plain(out))


def _extractor(card: ReportCard, metric: Metric) -> str:
    return card.extractors.get(metric.extractor, metric.extractor)


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
    by_name = {m.name: m for m in card.metrics}
    cells = [
        {"model": r.model, "edit": r.edit, "control": r.control, "edits": r.edits, "fail_share": r.fail_share,
         "metric": name, "unit": by_name[name].unit, "extractor": _extractor(card, by_name[name]), **asdict(c)}
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
