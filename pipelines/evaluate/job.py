"""Evaluate models: one test set, every model and the control editors, one protocol, one report card.

Edits are made by `rigface.editor`, as `rigface edit` makes them.

    OUT/card.html            the page: figures, pictures, tables, the source of every number
    OUT/card.md, card.json, card.parquet     the same for other readers
    OUT/rows.parquet         every measured edit, from which the card can be made again
    OUT/tasks.parquet        the test set: people and pictures
    OUT/rows/                results of the units of work, with pictures; a stopped run goes on with the next unit,
                             and a model that is added or changed is measured alone
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
from pipelines.evaluate.clip_checks import check_clips
from pipelines.evaluate.config import TASK_KINDS, EvaluateConfig
from pipelines.evaluate.info import EvaluationInfo
from pipelines.evaluate.measurer import ROWS, MeasuredWith
from pipelines.evaluate.planned_task import PlannedTask
from pipelines.evaluate.tasks import FacesSource
from pipelines.evaluate.worker import EvaluateUnit, UnitPlan
from rigface import assets
from rigface.editor import profile_of
from rigface.edits import PREVIEW
from rigface.errors import PlanError
from rigface.evaluation.report import VERSION
from rigface.evaluation.report_card import ReportCard
from rigface.model.checkpoint_folder import refiner_folder
from rigface.profile import OWN
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
    if config.against:
        report.earlier(config.against, config.size)  # refused now rather than after hours
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
        profiles = {profile_of(place) for place in models.values()}
        profile = next(iter(profiles)) if len(profiles) == 1 else OWN
        measured_with = MeasuredWith(
            profile.adjusted(config.detector, config.parser),
            config.identity,
            config.second_identity,
            config.lpips,
            config.inception,
        )
        units = _units(tasks, info, config, measured_with)
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
        checked = list(check_clips(config.videos, models, config.pool.device))
        return report.finish(store, [unit.name for unit in units], info, config, checked)


def _units(
    tasks: Sequence[PlannedTask], info: EvaluationInfo, config: EvaluateConfig, measured_with: MeasuredWith
) -> list[Unit[UnitPlan]]:
    """Every group of tasks by every model, then by the controls; named by all that decides their results.

    So a model that is added or changed is measured alone, unless the code that makes edits has changed.
    """
    fixed = [VERSION, info.code, config.data, config.seeds, config.size, asdict(measured_with)]
    # The round trip among the controls is that of the first diffusion model.
    round_trip = [m.fingerprint for m in info.models.values() if not is_preview(m.place)][:1]
    editors = {name: [name, model.place, model.fingerprint] for name, model in info.models.items()}
    units = []
    for first in range(0, len(tasks), UNIT_SIZE):
        group = tuple(tasks[first : first + UNIT_SIZE])
        plan = [task.to_dict() for task in group]
        for editor, decides in (*editors.items(), (None, round_trip)):
            name = unit_name(json.dumps([fixed, decides, plan], sort_keys=True))
            units.append(Unit(name, UnitPlan(editor, group)))
    return units


def is_preview(model: str) -> bool:
    """True of the preview and of refiners, which correct it; False of diffusion models."""
    return model == PREVIEW or refiner_folder(model) is not None


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
