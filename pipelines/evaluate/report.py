"""Results of an evaluation: the report card, its page with pictures, and short tables for the terminal.

Path: OUT/rows/ -> `finish` -> OUT/card.*, rows.parquet, tasks.parquet.
"""

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.gallery import groups
from pipelines.evaluate.info import EvaluationInfo
from pipelines.evaluate.planned_task import SELF_EDITS
from rigface.edits import PREVIEW
from rigface.evaluation import report
from rigface.evaluation.baselines import CONTROLS
from rigface.evaluation.report_card import ReportCard, make_card
from rigface.evaluation.summary import headlines
from rigface.pages.environment import environment
from rigface.storage.store import Store, sharded
from rigface.types import DLIB_SAME_PERSON

PICTURE = "picture"
INVENTED = (SELF_EDITS["relit"], SELF_EDITS["posed"])
TASK_COLUMNS = ("edit", "kind", "key", "person", "target_person", "source_sha256", "target_sha256")


def finish(store: Store, units: Sequence[str], info: EvaluationInfo, config: EvaluateConfig) -> ReportCard:
    """Write the card of the units that are done."""
    rows, extractors = _rows(store, units)
    notes = [
        f"{len({r['person'] for r in rows})} people; pictures compared at {info.size} px; {info.date}, commit "
        f"{info.commit or 'unknown'}.",
        "All people of the dataset: a model trained on it has seen them."
        if config.all_people
        else "People are held out by name (pipelines/examples/split.py): no model trained on it has seen them.",
    ]
    if any(r["edit"] in INVENTED for r in rows):
        notes.append(
            f"{' and '.join(INVENTED)}: the source, not the truth, was made by the preview from one photograph. The "
            "preview removes a light that it added nearly exactly, so compare it on edits of two photographs."
        )
    baseline = PREVIEW if PREVIEW in info.models and len(info.models) > 1 else None
    report_card = make_card(rows, extractors, title=config.title, baseline=baseline, notes=notes)
    top = top_of_page(report_card, rows, config)
    plain = [{name: value for name, value in row.items() if name != PICTURE} for row in rows]
    for name, data in report.files(report_card, plain, top).items():
        store.publish(name, data)
    first = {(r["edit"], r["key"]): r for r in rows}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{n: r[n] for n in TASK_COLUMNS} for r in first.values()]), sink)
    store.publish("tasks.parquet", sink.getvalue())
    return report_card


def _rows(store: Store, units: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    done = store.ids("rows", ".parquet")
    tables = [store.table(sharded("rows", unit, ".parquet")) for unit in units if unit in done]
    extractors = json.loads(tables[0].schema.metadata[b"rigface.extractors"])
    return [row for table in tables for row in table.to_pylist()], extractors


def top_of_page(report_card: ReportCard, rows: Sequence[dict[str, Any]], config: EvaluateConfig) -> Markup:
    """The first part of the page: the short tables, and pictures."""
    text = environment("pipelines.evaluate").get_template("top.html").render(
        people=len({row["person"] for row in rows}),
        all_people=config.all_people,
        headlines=headlines(report_card),
        same_person=DLIB_SAME_PERSON,
        groups=groups(rows, config.page_tasks),
    )  # fmt: skip
    return Markup(text)


def print_tables(report_card: ReportCard, console: Console | None = None) -> None:
    """Print the short tables; of models, the best number of a column is bold."""
    console = console or Console()
    for headline in headlines(report_card):
        columns = [
            Column(name.partition("\n")[0], justify="right" if name else "left", no_wrap=not name)
            for name in headline.head
        ]
        table = Table(*columns, title=f"{headline.edit} ({headline.edits} edits)", title_justify="left")
        for k, line in enumerate(headline.body):
            style = "dim" if k in headline.controls else ""
            cells = (Text(c, style="bold green" if (k, j) in headline.best else style) for j, c in enumerate(line))
            table.add_row(*cells)
        console.print(table)
    for more in report.tables(report_card):
        if more.title in (report.LINEAR, report.CLIPS):
            columns = [Column(name.replace("\n", " "), no_wrap=name in ("model", "number")) for name in more.head]
            table = Table(*columns, title=more.title, title_justify="left")
            for line in more.body:
                if line[0] not in CONTROLS:
                    table.add_row(*line)
            console.print(table)
