"""Results of an evaluation: the report card of the units that are done.

Path: OUT/rows/ -> `finish` -> OUT/card.*, rows.parquet, tasks.parquet.
"""

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.info import EvaluationInfo
from pipelines.evaluate.planned_task import RELIT
from rigface.edits import PREVIEW
from rigface.errors import PlanError
from rigface.evaluation.card_page import publish
from rigface.evaluation.metric_registry import Row
from rigface.evaluation.report_card import ReportCard, make_card
from rigface.storage.store import Store, sharded

TASK_COLUMNS = ("edit", "kind", "key", "person", "target_person", "source_sha256", "target_sha256")


def finish(
    store: Store, units: Sequence[str], info: EvaluationInfo, config: EvaluateConfig, checked: Sequence[str] = ()
) -> ReportCard:
    """Write the card of the units that are done; `checked` are sentences for it."""
    rows, extractors = _rows(store, units)
    people = len({r["person"] for r in rows})
    notes = [
        f"{people} people; edits made at 512 px, compared at {info.size} px; {info.date}, commit "
        f"{info.commit or 'unknown'}.",
        "All people of the dataset: a model trained on it has seen them."
        if config.all_people
        else "People are held out by name (pipelines/examples/split.py): no model trained on it has seen them.",
    ]
    notes += checked
    if any(r["edit"] == RELIT for r in rows):
        notes.append(
            f"{RELIT}: the source, not the truth, was made by the preview from one photograph. The preview removes a "
            "light that it added nearly exactly, so compare it on edits of two photographs."
        )
    baseline = PREVIEW if PREVIEW in info.models and len(info.models) > 1 else None
    older = None
    if config.against:
        older_rows, others = earlier(config.against, info.size)
        older = (config.against, older_rows)
        differ = [name for name in extractors if extractors[name] != others.get(name)]
        notes += [f"{config.against} was measured with another {', '.join(differ)}."] if differ else []
    card = make_card(rows, extractors, title=config.title, baseline=baseline, notes=notes, older=older)
    lede = f"{people} {'people of the dataset' if config.all_people else 'held-out people'}."
    publish(store, card, rows, lede, config.page_tasks)
    first = {(r["edit"], r["key"]): r for r in rows}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{n: r[n] for n in TASK_COLUMNS} for r in first.values()]), sink)
    store.publish("tasks.parquet", sink.getvalue())
    return card


def earlier(place: str, size: int) -> tuple[list[Row], dict[str, str]]:
    """The rows and the extractors of an earlier evaluation; PlanError if it has none, or compared at another size."""
    store = Store(place)
    if not (store.exists("rows.parquet") and store.exists("rigface.json")):
        raise PlanError(f"--against {place}: want the OUT of a finished evaluation, which holds rows.parquet")
    other = json.loads(store.read("rigface.json")).get("size")
    if other != size:
        raise PlanError(f"--against {place}: it compared at {other} px; use --size {other}")
    table = store.table("rows.parquet")
    return list(table.to_pylist()), json.loads(table.schema.metadata[b"rigface.extractors"])


def _rows(store: Store, units: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    done = store.ids("rows", ".parquet")
    tables = [store.table(sharded("rows", unit, ".parquet")) for unit in units if unit in done]
    extractors = json.loads(tables[0].schema.metadata[b"rigface.extractors"])
    return [row for table in tables for row in table.to_pylist()], extractors
