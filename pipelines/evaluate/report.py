"""The end of an evaluation: what the units left, as a card, its page with pictures, and a short table for the terminal.

Path: OUT/rows/ -> `finish` -> OUT/card.*, rows.parquet, tasks.parquet.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.evaluate.gallery import gallery
from pipelines.evaluate.tasks import SELF_EDITS
from rigface.evaluation import report
from rigface.evaluation.baselines import CONTROLS
from rigface.evaluation.report_card import ReportCard, card
from rigface.evaluation.summary import Headline, headlines
from rigface.storage.store import Store, sharded

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.evaluate.config import EvaluateConfig

PICTURE = "picture"
INVENTED = (SELF_EDITS["relit"], SELF_EDITS["posed"])
TASK_COLUMNS = ("edit", "kind", "key", "person", "target_person", "source_sha256", "target_sha256")


def finish(store: Store, units: Sequence[str], about: dict[str, Any], config: EvaluateConfig) -> ReportCard:
    """Write the card of the units that are done."""
    rows, extractors = _rows(store, units)
    notes = [
        f"{len({r['person'] for r in rows})} people; pictures compared at {about['size']} px; {about['date']}, commit "
        f"{about['commit'] or 'unknown'}.",
        "People are held out by name (pipelines/examples/split.py): no model trained on the same dataset has seen them."
        if not config.all_people
        else "Everybody of the dataset is here: a model that learned from it has seen these people.",
    ]
    if any(r["edit"] in INVENTED for r in rows):
        notes.append(
            f"{' and '.join(INVENTED)}: there the source, not the truth, was made by the preview from one photograph. A light it "
            "put on it takes off again nearly exactly, so its figures there are no yardstick; those of two photographs are."
        )
    names = list(about["models"])
    baseline = "preview" if "preview" in names and len(names) > 1 else None
    made = card(rows, extractors, title=config.title, baseline=baseline, notes=notes)
    for name, data in report.files(
        made, [_without_picture(r) for r in rows], top(made, rows, config.page_tasks)
    ).items():
        store.publish(name, data)
    first = {(r["edit"], r["key"]): r for r in rows}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{n: r[n] for n in TASK_COLUMNS} for r in first.values()]), sink)
    store.publish("tasks.parquet", sink.getvalue())
    return made


def _rows(store: Store, units: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    done, tables = store.ids("rows", ".parquet"), []
    for unit in units:
        if unit in done:
            tables.append(store.table(sharded("rows", unit, ".parquet")))
    extractors = json.loads(tables[0].schema.metadata[b"rigface.extractors"])
    return [row for table in tables for row in table.to_pylist()], extractors


def _without_picture(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != PICTURE}


def top(made: ReportCard, rows: Sequence[dict[str, Any]], shown: int) -> str:
    """What the page begins with: the short tables, and pictures."""
    people = len({row["person"] for row in rows})
    lede = f"{people} people whom no model has learned from" if people else ""
    return (
        f"<p class=lede>{escape(lede)}. Of models, the best number of a column is bold; the grey rows do nothing, steal the "
        "true picture, or only go through the autoencoder. Failures count at their worst.</p>"
        f"<div class=heads>{''.join(_short(one) for one in headlines(made))}</div>"
        "<h2>Pictures</h2><p class=lede>The first tasks of the plan, not the best ones. Below each: gain by trait (0 did "
        "nothing, 1 is perfect), PSNR, and the distance of the face to the true one (below 0.6 is the same person).</p>"
        f"{gallery(rows, shown)}"
    )


def _short(one: Headline) -> str:
    head = "".join(f"<th>{_words(name)}</th>" for name in one.head)
    lines = []
    for k, line in enumerate(one.body):
        cells = "".join(
            f"<td>{f'<b>{escape(c)}</b>' if (k, j) in one.best else escape(c)}</td>" for j, c in enumerate(line)
        )
        lines.append(f"<tr{' class=control' if k in one.controls else ''}>{cells}</tr>")
    title = f"{escape(one.edit)} <small>{one.edits} edits</small>"
    return f"<section><h3>{title}</h3><div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"


def _words(label: str) -> str:
    main, _, small = label.partition("\n")
    return escape(main) + (f"<small>{escape(small)}</small>" if small else "")


def printed(made: ReportCard, console: Console | None = None) -> None:
    """The short tables on a terminal; of models, the best number of a column is bold."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    for one in headlines(made):
        table = Table(title=f"{one.edit} ({one.edits} edits)", title_justify="left")
        for name in one.head:
            table.add_column(name.partition("\n")[0], justify="right" if name else "left", no_wrap=not name)
        for k, line in enumerate(one.body):
            style = "dim" if k in one.controls else ""
            table.add_row(*(Text(c, style="bold green" if (k, j) in one.best else style) for j, c in enumerate(line)))
        console.print(table)
    for more in (one for one in report.tables(made) if one.title in (report.LINEAR, report.CLIPS)):
        table = Table(title=more.title, title_justify="left")
        for name in more.head:
            table.add_column(name.replace("\n", " "), no_wrap=name in ("model", "number"))
        for line in more.body:
            if line[0] not in CONTROLS:
                table.add_row(*line)
        console.print(table)
