"""Evaluate models: one test set, every model and the control editors, one protocol, one report card.

Edits are made by `rigface.editor`, as `rigface edit` makes them.

    OUT/card.html            the page: figures, pictures, tables, the source of every number
    OUT/card.md, card.json, card.parquet     the same for other readers
    OUT/rows.parquet         every measured edit, from which the card can be made again
    OUT/tasks.parquet        the test set: people and pictures
    OUT/rows/                results of the units of work, with pictures; a stopped run goes on with the next unit
    OUT/rigface.json         settings, models, commit

The people of the test set are those that `split.py` holds out: models trained on the same dataset have not seen them.
The rules of the protocol are in rigface/metrics.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipelines import run_info
from pipelines.cluster.unit_job import Unit, run_units, unit_name
from pipelines.evaluate import report
from pipelines.evaluate.config import TASK_KINDS, EvaluateConfig
from pipelines.evaluate.info import EvaluationInfo
from pipelines.evaluate.planned_task import PlannedTask
from pipelines.evaluate.tasks import FacesSource
from pipelines.evaluate.worker import ROWS, EvaluateUnit, MeasuredWith
from rigface import assets
from rigface.edits import PREVIEW
from rigface.errors import PlanError
from rigface.evaluation.report import VERSION
from rigface.evaluation.report_card import ReportCard
from rigface.storage import lock
from rigface.storage.store import Store

UNIT_SIZE = 8  # tasks per unit of work


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = print) -> ReportCard | None:
    """Run it; the card, or None for a dry run.

    Raises:
        PlanError: no person is held out, this data has no such task, or OUT is no evaluation.
        MissingAsset, BadCheckpoint: a model is missing, or does not fit.
        OutputBusy: another run writes to this output.
    """
    models = models_by_name(config.models)
    tasks = _plan(FacesSource(Store(config.data)), config)
    people, names = len({task.person for task in tasks}), Counter(task.name for task in tasks)
    say(f"{len(tasks)} tasks of {people} people: " + ", ".join(f"{count} {name}" for name, count in names.items()))
    say(f"{', '.join(models)} and the controls, compared at {config.size} px, up to {config.seeds} seeds each")
    if config.dry_run:
        return None
    store = Store(config.out)
    with lock.hold(store) as check:
        run_info.load_own(store, "evaluate", (ROWS,))
        info = EvaluationInfo.of(config, models)
        run_info.write(store, asdict(info))
        # A unit's name: its tasks, and everything else that decides their results.
        fixed = [VERSION, sorted((n, m.place, m.fingerprint) for n, m in info.models.items()), config.seeds]
        fixed.append(config.size)
        measured_with = MeasuredWith(
            config.detector,
            config.parser,
            config.identity,
            config.lpips,
            config.inception,
            config.second_identity,
        )
        fixed += [] if measured_with == MeasuredWith() else [asdict(measured_with)]
        groups = [tasks[first : first + UNIT_SIZE] for first in range(0, len(tasks), UNIT_SIZE)]
        units = [
            Unit(unit_name(json.dumps([[*fixed, config.data], [t.to_dict() for t in g]], sort_keys=True)), g)
            for g in groups
        ]
        worker = partial(
            EvaluateUnit,
            config.data,
            config.out,
            models,
            config.seeds,
            config.size,
            config.pool.device,
            config.threads,
            measured_with,
        )
        run_units(units, worker, config.pool, store, ROWS, check, say)
        return report.finish(store, [unit.name for unit in units], info, config)


def models_by_name(models: Sequence[str]) -> dict[str, str]:
    """Name in the card -> a name of `Editor.load`, in the order given; PlanError if two share a name."""
    models = models or (PREVIEW, *(name for name in ("mini", "refiner") if assets.is_here(name)))
    by_name: dict[str, str] = {}
    for model in models:
        name, _, place = model.rpartition("=")
        if not name:
            path = Path(place)
            name = path.parent.name if path.name == "model" and path.parent.name else path.name or place
        if name in by_name:
            raise PlanError(f"--models: two are called {name!r}; write NAME=FOLDER")
        by_name[name] = place
    return by_name


def _plan(source: FacesSource, config: EvaluateConfig) -> list[PlannedTask]:
    kinds = config.tasks or TASK_KINDS
    tasks = source.plan(kinds, config)
    if not tasks:
        raise PlanError(f"{config.data}: no task of {', '.join(kinds)} can be made of the people held out here")
    return tasks
