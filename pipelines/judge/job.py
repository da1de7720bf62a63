"""Judge any editor's results: a table of sources, outputs and what was asked in, a report card out.

    OUT/card.html            the page: figures, pictures, tables, the source of every number
    OUT/card.md, card.json, card.parquet     the same for other readers
    OUT/rows.parquet         every measured edit
    OUT/bad_rows.csv         rows that were not measured, with their reasons
    OUT/rows/                results of the units of work; a stopped run goes on with the next unit
    OUT/rigface.json         settings, commit

Rows of one task (the same source, and the same asked) are compared across editors. A changed picture is measured anew.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, fields
from functools import partial
from itertools import chain

from pipelines import run_info
from pipelines.cluster.unit_job import Unit, run_units, unit_name
from pipelines.evaluate.measurer import ROWS
from pipelines.judge.asked_row import AskedRow
from pipelines.judge.config import JudgeConfig
from pipelines.judge.table import BadRowOf, Table, hint, read_table
from pipelines.judge.worker import BAD, JudgeUnit
from rigface.errors import PlanError
from rigface.evaluation.card_page import publish
from rigface.evaluation.report import VERSION
from rigface.evaluation.report_card import ReportCard, make_card
from rigface.storage import lock
from rigface.storage.store import Store, sharded

UNIT_SIZE = 8  # tasks per unit of work
DECIDING = ("size", "detector", "parser", "identity", "second_identity", "lpips", "inception")  # settings, of numbers
ROW_S = 1.5  # of one core for an edit and its share of the controls, for the dry run's estimate


def judge(config: JudgeConfig, say: Callable[[str], None] = print) -> ReportCard | None:
    """Run it; the card, or None for a dry run.

    Raises:
        PlanError: TABLE is no table, no row of it can be measured, --baseline is no editor of it, or OUT is the output
            of another command.
        MissingAsset: a network of the measurement is missing.
        OutputBusy: another run writes to this output.
    """
    table = read_table(config.table)
    editors, tasks = list(dict.fromkeys(row.editor for row in table.rows)), _tasks(table.rows)
    _describe(table, editors, len(tasks), say)
    if config.baseline and config.baseline not in editors:
        raise PlanError(f"--baseline {config.baseline}: want an editor of the table: {', '.join(editors)}")
    if not table.rows:
        raise PlanError(f"{config.table}: no row can be measured; {table.bad[0].place}: {table.bad[0].reason}")
    if config.dry_run:
        say(f"about {len(table.rows) * ROW_S / max(config.pool.workers, 1) / 60:.0f} min")
        return None
    store = Store(config.out)
    with lock.hold(store) as check:
        run_info.load_own(store, "judge", (ROWS,))
        settings = {name: value for name, value in asdict(config).items() if name != "dry_run"}
        run_info.write(store, {"judged": editors, "settings": settings, **run_info.software()})
        fixed = [VERSION, {name: settings[name] for name in DECIDING}]
        groups = [list(chain(*tasks[k : k + UNIT_SIZE])) for k in range(0, len(tasks), UNIT_SIZE)]
        units = [Unit(unit_name(json.dumps([fixed, [_stamped(r) for r in rows]])), rows) for rows in groups]
        run_units(units, partial(JudgeUnit, config), config.pool, store, ROWS, check, say)
        return _finish(store, [unit.name for unit in units], table, editors, config, say)


def _tasks(rows: Sequence[AskedRow]) -> list[list[AskedRow]]:
    """Rows by task, so that one worker sees all editors of a task."""
    tasks: dict[tuple[str, str], list[AskedRow]] = {}
    for row in rows:
        tasks.setdefault((row.name, row.key), []).append(row)
    return list(tasks.values())


def _describe(table: Table, editors: Sequence[str], tasks: int, say: Callable[[str], None]) -> None:
    people = len({row.person for row in table.rows})
    say(f"{len(table.rows):,} rows, {tasks:,} tasks of {people:,} people; {len(editors)} editors: {', '.join(editors)}")
    if table.ignored:
        say(f"columns that mean nothing here: {', '.join(map(hint, table.ignored))}")
    for bad in table.bad[:10]:
        say(f"{bad.place} cannot be measured: {bad.reason}")
    if len(table.bad) > 10:
        say(f"... and {len(table.bad) - 10:,} more")


def _stamped(row: AskedRow) -> list[str]:
    """All that decides a row's numbers: its columns, and size and date of its files."""
    files = [p for p in (row.source, row.output, row.target, row.truth) if p is not None]
    stats = [p.stat() if p.is_file() else None for p in files]
    return [repr(row), *(f"{s.st_size} {s.st_mtime_ns}" if s else "" for s in stats)]


def _finish(
    store: Store, units: Sequence[str], table: Table, editors: Sequence[str], config: JudgeConfig,
    say: Callable[[str], None],
) -> ReportCard:  # fmt: skip
    tables = [store.table(sharded(ROWS, unit, ".parquet")) for unit in units]
    rows = [row for found in tables for row in found.to_pylist()]
    found_bad = [BadRowOf(**b) for found in tables for b in json.loads(found.schema.metadata[BAD])]
    bad = sorted([*table.bad, *found_bad], key=lambda b: (len(b.place), b.place))  # row 9 before row 10
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(f.name for f in fields(BadRowOf))
    writer.writerows(astuple(b) for b in bad)
    store.publish("bad_rows.csv", sink.getvalue().encode())
    if not rows:
        raise PlanError(f"{config.table}: no row could be measured; {bad[0].place}: {bad[0].reason}")
    people = len({row["person"] for row in rows})
    notes = [
        f"{people} people, by the column `person` or else by source; crops of 512 px around the source's face, "
        f"compared at {config.size} px; commit {run_info.git_commit() or 'unknown'}.",
        f"{len(bad):,} rows were not measured or had no output: bad_rows.csv names each." if bad else
        "Every row of the table was measured.",
    ]  # fmt: skip
    extractors = json.loads(tables[0].schema.metadata[b"rigface.extractors"])
    baseline = config.baseline or (editors[0] if len(editors) > 1 else None)
    card = make_card(rows, extractors, title=config.title, baseline=baseline, notes=notes)
    lede = f"{len(editors)} editors on {people} people, by rigface judge."
    publish(store, card, rows, lede, config.page_tasks)
    if bad:
        say(f"{len(bad):,} rows not measured, or without output: {config.out.rstrip('/')}/bad_rows.csv")
    return card
