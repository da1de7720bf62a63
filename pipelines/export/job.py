"""Faces in, files of other programs out.

Path: a dataset of faces -> `export` -> DEST; see the modules of the formats for what it holds.

DEST/rigface.json holds the settings and, for numbered shards, a hash of the objects that were planned: a stopped run
goes on, and one with other settings or on a dataset that has changed under numbered shards is refused.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from pipelines import run_info
from pipelines.cluster.input_shares import Counts, run_shares
from pipelines.cluster.unit_job import run_units
from pipelines.examples.layout import PLAN, parquet_bytes
from pipelines.examples.pair_plan import PairPlan, plan_pairs
from pipelines.export import csv_files, edit_pairs, huggingface, webdataset
from pipelines.export.config import ExportConfig
from pipelines.export.shards import SPLITS, ShardUnit, finished, plan_shards
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.storage import lock
from rigface.storage.store import Store

UNIT_PAIRS = 64
_NOT_SETTINGS = ("faces", "dest", "dry_run", "overwrite", "pool")

Say = Callable[[str], None]


def export(config: ExportConfig, say: Say = print) -> Counts:
    """Run the job; counts of what was written now.

    Raises:
        PlanError: there are no faces or pairs, or DEST holds another export or other data.
        OutputBusy: another run writes to DEST.
    """
    faces, store = Faces(config.faces), Store(config.dest)
    faces.parts  # noqa: B018  PlanError if there are none
    if store.uri == faces.store.uri:
        raise PlanError(f"{store.uri} is the dataset itself: choose another DEST")
    run = {"openface": _csvs, "pyfeat": _csvs, "huggingface": _shards, "webdataset": _shards, "edit-pairs": _pairs}
    with lock.hold(store) as check:
        _begin(config, faces, store)
        return run[config.to](config, faces, store, check, say)


def _begin(config: ExportConfig, faces: Faces, store: Store) -> None:
    """Compare with an earlier export, or begin a new one."""
    settings = {name: value for name, value in asdict(config).items() if name not in _NOT_SETTINGS}
    numbered = config.to in ("huggingface", "webdataset")
    parts = hashlib.sha256("\0".join(faces.parts).encode()).hexdigest()[:16] if numbered else ""
    about: dict[str, Any] = {"settings": settings, "faces": faces.store.uri, "parts": parts}
    folders = (csv_files.FOLDER, huggingface.FOLDER, webdataset.FOLDER, edit_pairs.PAIRS, *SPLITS)
    earlier = run_info.load_own(store, "export", folders)
    if config.dry_run:
        return
    if earlier is not None and config.overwrite:
        for folder in folders:
            store.delete_folder(folder)
        store.delete(PLAN)
    elif earlier is not None and earlier["exported"] != json.loads(json.dumps(about)):
        what = "settings" if earlier["exported"]["settings"] != settings else "faces"
        raise PlanError(f"{store.uri} is an export with other {what}: choose another DEST, or --overwrite")
    if earlier is None or config.overwrite:
        run_info.write(store, {"exported": about, **run_info.software()})


def _csvs(config: ExportConfig, faces: Faces, store: Store, check: Callable[[], None], say: Say) -> Counts:
    count, todo = csv_files.inputs_to_do(config, faces.store, store)
    say(f"{count:,} inputs with faces, {todo:,} to do")
    if config.dry_run or not todo:
        return {}
    return run_shares(partial(csv_files.CsvShare, config), todo, config.pool, store, check, say)


def _shards(config: ExportConfig, faces: Faces, store: Store, check: Callable[[], None], say: Say) -> Counts:
    of_hub = config.to == "huggingface"
    kind = huggingface if of_hub else webdataset
    encoder: Any = huggingface.HubEncoder if of_hub else webdataset.TarEncoder
    units = plan_shards(faces, config.limit)
    done = finished(store, kind.FOLDER, kind.SUFFIX)
    say(f"{sum(unit.plan.rows for unit in units):,} faces in {len(units):,} shards")
    if config.dry_run:
        return {}
    worker = partial(ShardUnit, config, kind.FOLDER, kind.SUFFIX, encoder)
    counts = run_units(units, worker, config.pool, store, kind.FOLDER, check, say, finished=done)
    if of_hub:
        rows = {split: _rows(store, split) for split in SPLITS}
        text = huggingface.card(faces.head, faces.detector, rows, run_info.git_commit(), config.identity_vectors)
        store.publish("README.md", text.encode())
    return dict(counts)


def _rows(store: Store, split: str) -> int:
    total = 0
    for path in store.paths(huggingface.FOLDER, huggingface.SUFFIX):
        if path.rpartition("/")[2].startswith(split):
            with store.open(path) as file:
                total += pq.ParquetFile(file).metadata.num_rows
    return total


def _pairs(config: ExportConfig, faces: Faces, store: Store, check: Callable[[], None], say: Say) -> Counts:
    detector = faces.detector
    if detector.landmarks != 478 or "jawOpen" not in detector.blendshape_names:
        raise PlanError(f"instructions are written from MediaPipe's landmarks and scores; {detector.name} gives none")
    if store.exists(PLAN) and not config.dry_run:
        plan = PairPlan.from_arrow(store.table(PLAN))
    else:
        plan = plan_pairs(faces, edit_pairs.pair_settings(config), say)
        if not plan.examples:
            raise PlanError(f"{faces.store.uri}: no pairs can be made of these faces; {plan.report.refused}")
    say(f"{len(plan.examples):,} pairs planned, {plan.report.examples['test']:,} of them of held-out people")
    if config.dry_run:
        return {}
    store.publish(PLAN, parquet_bytes(plan.to_arrow()))
    for name, text in edit_pairs.configs(store.uri):
        store.publish(name, text.encode())
    units = plan.units(config.to, UNIT_PAIRS)
    return dict(
        run_units(units, partial(edit_pairs.PairUnit, config), config.pool, store, edit_pairs.PAIRS, check, say)
    )
