"""Output folder of the extract job: run information, finished units and one row per input.

    OUT/rigface.json               settings, head, detector, package versions, git commit, and the latest runs
    OUT/faces/<2 hex>/<unit>.parquet   one object per unit that shows faces; its record is in the file's metadata
    OUT/faces/schema.parquet       no rows: readers find the columns even if there are no faces
    OUT/inputs/<24 hex>.parquet    one row per finished input, written in batches
    OUT/.rigface/                  plans, records of units without faces, crashes, identities, lock, unfinished files

A unit is done when its object exists; an input is done when its row does. Only the holder of the lock writes here,
except for units, whose objects appear whole and whose first commit wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import run_info
from pipelines.extract import identities, quarantine
from pipelines.extract.config import Settings, config_hash, differences
from pipelines.extract.layout import error_path, parquet, part_path, plain_parquet, publish_by_hash, record_of
from pipelines.extract.plan import Plan, units_of
from pipelines.extract.plan_store import PLANS, PlanStore
from pipelines.extract.quarantine import Quarantine
from pipelines.extract.summary import InputRow
from pipelines.extract.unit import Record
from pipelines.inputs.compact_set import CompactSet
from rigface import schema
from rigface.errors import PlanError
from rigface.storage.store import IDENTITIES, INTERNAL, Store
from rigface.types import DetectorSpec, HeadSpec


class FaceDataset:
    """One dataset, in the folder of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.plans = PlanStore(store)

    # --- settings and runs

    def info(self) -> dict[str, Any] | None:
        """The run information, or None if there is none."""
        return run_info.load(self.store)

    def check(self, settings: Settings, head: HeadSpec, detector: DetectorSpec, overwrite: bool) -> None:
        """Check that a run with these settings may write here.

        Raises:
            PlanError: the dataset was made with other settings, or the folder holds other data.
        """
        info = run_info.load_own(self.store, "extract", ("faces", "inputs"))
        if info is None:
            return
        if overwrite or info["config"] == config_hash(settings, head, detector):
            return
        now = {**asdict(settings), "head model": asdict(head), "detector model": asdict(detector)}
        before = {**info["settings"], "head model": info["head"], "detector model": info["detector"]}
        changed = differences(json.loads(json.dumps(now)), before) or ["schema of another version"]
        raise PlanError(
            f"{self.store.uri} was made with other settings ({'; '.join(changed)}). A dataset has one set of settings: "
            "choose another OUT, go back to those settings, or delete the dataset with --overwrite."
        )

    def begin_run(self, settings: Settings, head: HeadSpec, detector: DetectorSpec, overwrite: bool) -> str:
        """Prepare the dataset for a run that passed `check`.

        Returns:
            The name of the configuration, part of every unit's name.
        """
        if overwrite and self.info() is not None:
            self._clear()
        info = self.info() or {}
        config = config_hash(settings, head, detector)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        run = {"started": now, **run_info.software()}
        info = {
            "schema": [schema.FACES_VERSION, schema.INPUTS_VERSION],
            "config": config,
            "settings": asdict(settings),
            "head": asdict(head),
            "detector": asdict(detector),
            "created": info.get("created", now),
            "commit": info.get("commit", run["commit"]),
            "packages": info.get("packages", run["packages"]),
            "runs": [*info.get("runs", []), run][-run_info.MAX_RUNS :],
        }
        run_info.write(self.store, info)
        if not self.store.exists("faces/schema.parquet"):
            empty = schema.faces_schema(head, detector).empty_table()
            self.store.publish("faces/schema.parquet", parquet(empty))
        self.store.sweep()
        return config

    def _clear(self) -> None:
        """Remove the dataset's objects; rigface.json last, so that a kill in between leaves it recognisable."""
        for folder in ("faces", "inputs", PLANS, f"{INTERNAL}/units", quarantine.FOLDER):
            self.store.delete_folder(folder)
        self.store.delete(IDENTITIES)
        self.store.delete(run_info.RUN_INFO)

    # --- inputs that changed

    def add_plans(self, plans: list[Plan], before: dict[str, Plan], config: str) -> int:
        """Keep new plans. Rows and units of an earlier content of the same input are removed first.

        Returns:
            The number of inputs whose content has changed.
        """
        changed = [before[p.uri] for p in plans if p.uri in before and before[p.uri].sha256 != p.sha256]
        self._forget(changed, config)
        self.plans.add(plans)
        return len(changed)

    def _forget(self, plans: list[Plan], config: str) -> None:
        """Remove the rows and the units of some inputs."""
        if not plans:
            return
        uris = {p.uri for p in plans}
        self.remove_inputs(uris)
        identities.forget_inputs(self.store, uris)
        for plan in plans:
            Quarantine(self.store).forget(plan.uri)
            for unit in units_of(plan, config):
                self.store.delete(part_path(unit.unit_id))
                self.store.delete(error_path(unit.unit_id))

    # --- units

    def done(self) -> CompactSet:
        """Names of all finished units."""
        with_faces, without = self.parts()
        return CompactSet(chain(with_faces, without))

    def parts(self) -> tuple[Iterator[str], Iterator[str]]:
        """Names of the finished units with faces, and of those with a record only, as they are listed."""
        with_faces = self.store.names("faces", ".parquet")
        return (unit for unit in with_faces if unit != "schema"), self.store.names(f"{INTERNAL}/units", ".json")

    def record(self, unit: str) -> Record:
        """The record of a finished unit.

        Raises:
            FileNotFoundError: the unit is not finished.
        """
        try:
            with self.store.open(part_path(unit)) as f:
                return record_of(pq.read_schema(f))
        except FileNotFoundError:
            return Record.from_json(self.store.read(error_path(unit)).decode())

    # --- inputs

    def inputs_by_part(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rows of inputs/, or some columns of them, object by object."""
        return (self.store.table(path, columns) for path in self.store.paths("inputs", ".parquet"))

    def inputs(self) -> pa.Table:
        """All rows of inputs/."""
        tables = list(self.inputs_by_part())
        return pa.concat_tables(tables) if tables else schema.inputs_schema().empty_table()

    def add_inputs(self, rows: list[InputRow]) -> None:
        """Publish rows as one object."""
        if rows:
            columns = schema.inputs_schema()
            table = schema.table_of({n: [getattr(row, n) for row in rows] for n in columns.names}, columns)
            publish_by_hash(self.store, "inputs", table)

    def remove_inputs(self, uris: Iterable[str]) -> None:
        """Remove the rows of some inputs."""
        removed = pa.array(sorted(uris), pa.string())
        if not len(removed):
            return
        for path in self.store.paths("inputs", ".parquet"):
            table = self.store.table(path)
            kept = table.filter(pc.invert(pc.is_in(table["uri"], removed)))
            if not len(kept):
                self.store.delete(path)
            elif len(kept) < len(table):
                self.store.publish(path, plain_parquet(kept))
