"""How good are models? One test set, every model and the control editors, judged by one protocol, written as a card.

    OUT/card.html            the page: figures, pictures, tables, where every number comes from
    OUT/card.md, card.json, card.parquet     the same for other readers
    OUT/rows.parquet         every judged edit, so that the card can be made again
    OUT/tasks.parquet        the test set: who, which pictures
    OUT/rows/                what units of work left, with the pictures; a run that is stopped goes on with the next unit
    OUT/rigface.json         settings, models, commit

People of the test set are those that `split.py` holds out, whom no model of ours that learned from the same dataset has
seen. Rules of the protocol are in rigface/metrics.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cluster.actor_pool import Unit, over
from pipelines.evaluate.config import EvaluateConfig
from pipelines.run_info import git_commit, versions
from rigface import assets
from rigface.errors import PlanError
from rigface.storage import lock
from rigface.storage.store import Store

if TYPE_CHECKING:
    from pipelines.evaluate.tasks import Examples, Faces, Item
    from rigface.evaluation.report_card import ReportCard

ABOUT = "rigface.json"
UNIT = 8  # tasks per unit of work
PREVIEW_PX = 256  # of a preview that nobody is compared with


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = print) -> ReportCard | None:
    """Run it; the card, or None for a dry run.

    Raises:
        PlanError: nobody is held out, no such task in this data, or OUT holds another evaluation.
        MissingAsset, BadCheckpoint: a model is not there, or does not fit.
        OutputBusy: another run writes to this output.
    """
    from pipelines.evaluate import report
    from pipelines.evaluate.worker import EvaluateUnit, source_of

    data, places = Store(config.data), places_of(config.models)
    size = config.size or _smallest(places, data)
    source = source_of(data, size)
    items = _plan(source, config)
    units = _units(items, config, places, size)
    _say_plan(items, places, config, size, say)
    if config.dry_run:
        return None
    store = Store(config.out)
    with lock.hold(store) as check:
        about = _about(config, store, places, size)
        done = store.ids("rows", ".parquet")
        todo = [unit for unit in units if unit[0] not in done]
        say(f"{len(units)} units of work, {len(todo)} to do")
        arguments = {
            "data": config.data, "out": config.out, "places": places, "seeds": config.seeds, "size": size,
            "device": config.run.device, "threads": config.threads,
        }  # fmt: skip
        counts: Counter[str] = Counter()
        began = time.monotonic()
        for k, record in enumerate(over(todo, EvaluateUnit, arguments, config.run), 1):
            counts.update(record)
            check()
            left = (time.monotonic() - began) / k * (len(todo) - k)
            say(f"{k}/{len(todo)} units, {counts['edits']:,} edits judged, about {left:.0f} s left")
        return report.finish(store, [name for name, _ in units], about, config)


def places_of(models: tuple[str, ...]) -> dict[str, str]:
    """Name in the card -> place, in the order given.

    Raises:
        PlanError: two models of one name.
    """
    models = models or (("preview", "mini") if assets.is_here("mini") else ("preview",))
    out: dict[str, str] = {}
    for one in models:
        name, _, place = one.rpartition("=")
        if not name:
            path = Path(place)
            name = path.parent.name if path.name == "model" and path.parent.name else path.name or place
        if name in out:
            raise PlanError(f"--models: two are called {name!r}; write NAME=FOLDER")
        out[name] = place
    return out


def _smallest(places: dict[str, str], data: Store) -> int:
    """The least of the models' own sizes.

    Raises:
        PlanError: there are examples, and a model wants others.
    """
    from pipelines.examples.layout import parts_of, spec_of
    from rigface.model.checkpoint import config_of

    own = {name: config_of(place) for name, place in places.items() if place != "preview"}
    if not next(iter(data.paths("examples", ".parquet")), None):
        return min([config.size for config in own.values()], default=PREVIEW_PX)
    spec = spec_of(data, parts_of(data))
    for name, config in own.items():
        if (config.render_style, config.size) != (spec.style, spec.size):
            raise PlanError(
                f"{data.uri}: these examples have renders in the style {spec.style!r} at {spec.size} px, {name} wants "
                f"{config.render_style!r} at {config.size}; evaluate on the dataset of faces, from which any are composed"
            )
    return spec.size


def _plan(source: Examples | Faces, config: EvaluateConfig) -> list[Item]:
    from pipelines.evaluate.tasks import Examples

    kinds: Any = config.tasks or source.kinds
    if missing := sorted(set(kinds) - set(source.kinds)):
        raise PlanError(
            f"--tasks {', '.join(missing)}: examples hold self-edits only; evaluate on the dataset of faces"
        )
    if isinstance(source, Examples):
        return source.plan(kinds, config.limit, config.all_people)
    items = source.plan(
        kinds, config.limit, config.all_people, sweeps=config.sweeps, clips=config.clips,
        clip_frames=config.clip_frames, seed=config.seed,
    )  # fmt: skip
    if not items:
        raise PlanError(f"{config.data}: no task of {', '.join(kinds)} can be made of the people held out here")
    return items


def _units(items: list[Item], config: EvaluateConfig, places: dict[str, str], size: int) -> list[Unit]:
    """Tasks in units with deterministic names: of the tasks, and of everything that decides what becomes of them."""
    from rigface.evaluation.report import VERSION

    fixed = [VERSION, sorted((n, p, fingerprint(p)) for n, p in places.items()), config.seeds, size, config.data]
    units = []
    for first in range(0, len(items), UNIT):
        some = [item.plain() for item in items[first : first + UNIT]]
        text = json.dumps([fixed, some], sort_keys=True)
        units.append((hashlib.sha256(text.encode()).hexdigest()[:24], {"items": some}))
    return units


def fingerprint(place: str) -> str:
    """A name for the content of a checkpoint: of its files' names, sizes, and first and last MiB."""
    from rigface.model.checkpoint import folder_of

    if place in ("preview", "tiny"):
        return place
    digest = hashlib.sha256()
    folder = folder_of(place)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)}\0{size}\0".encode())
        with file.open("rb") as f:
            digest.update(f.read(2**20))
            f.seek(max(0, size - 2**20))
            digest.update(f.read())
    return digest.hexdigest()[:16]


def _say_plan(
    items: list[Item], places: dict[str, str], config: EvaluateConfig, size: int, say: Callable[[str], None]
) -> None:
    people = len({item.person for item in items})
    named = Counter(item.name for item in items)
    say(f"{len(items)} tasks of {people} people: " + ", ".join(f"{count} {name}" for name, count in named.items()))
    say(f"{', '.join(places)} and the controls, compared at {size} px, up to {config.seeds} seeds each")


def _about(config: EvaluateConfig, store: Store, places: dict[str, str], size: int) -> dict[str, Any]:
    """rigface.json, written anew."""
    models = {name: {"place": place, "fingerprint": fingerprint(place)} for name, place in places.items()}
    settings = {name: value for name, value in asdict(config).items() if name not in ("run", "dry_run")}
    about = {
        "settings": settings, "models": models, "size": size, "commit": git_commit(), "packages": versions(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip
    store.publish(ABOUT, json.dumps(about, indent=1).encode())
    return about
