"""Output folder of the extract job: run information, finished shards and one row per input.

    OUT/rigface.json               settings, head, detector, package versions, git commit, and the latest runs
    OUT/faces/<2 hex>/<shard>.parquet   one object per shard; the records of its units are in the file's metadata
    OUT/faces/schema.parquet       no rows: readers find the columns even if there are no faces
    OUT/inputs/<24 hex>.parquet    one row per finished input, written in batches
    OUT/identities/<24 hex>.parquet    one row per track, added by each pass of `identities`
    OUT/.rigface/                  plans, records of shards without faces, crashes, lock, unfinished files

An input is done when its row exists. Of an input without a row, those units are done that have a record in an object.
Units leave a shard by its being written again, whole, under its name: a reader sees the rows before or after, and never
those of two contents of an input.

Only the holder of the lock writes here, except for shards, whose objects appear whole and whose first commit wins. The
holder of a part (`--shard 1/4`) only adds objects, so that several of them may work at once.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import partial
from itertools import chain, compress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import run_info
from pipelines.extract import quarantine
from pipelines.extract.config import Settings, config_hash, differences
from pipelines.extract.layout import (
    error_path,
    parquet,
    part_path,
    publish_by_hash,
    records_of,
    remove_rows,
    rows_of,
    with_records,
)
from pipelines.extract.plan import Plan, units_of
from pipelines.extract.plan_store import PLANS, PlanStore
from pipelines.extract.quarantine import Quarantine
from pipelines.extract.summary import InputRow
from pipelines.extract.unit import Record, records_json, records_of_json
from pipelines.inputs.compact_set import CompactSet
from rigface import schema
from rigface.dataset.identities import FOLDER as IDENTITIES
from rigface.errors import PlanError
from rigface.storage.store import INTERNAL, Store
from rigface.types import DetectorSpec, HeadSpec

READ_THREADS = 16


class FaceDataset:
    """One dataset, in the folder of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.plans = PlanStore(store)

    # --- settings and runs

    def info(self) -> dict[str, Any] | None:
        """The run information, or None if there is none."""
        return run_info.load(self.store)

    def check(self, settings: Settings, head: HeadSpec, detector: DetectorSpec, overwrite: bool) -> str:
        """The name of the configuration, part of every unit's name, if a run with these settings may write here.

        PlanError if the dataset was made with other settings, or the folder holds other data.
        """
        info, name = (
            run_info.load_own(self.store, "extract", ("faces", "inputs")),
            config_hash(settings, head, detector),
        )
        if info is None or overwrite:
            return name
        self._check_root(info, settings.root)
        if info["schema"][0] != schema.FACES_VERSION:
            raise PlanError(
                f"{self.store.uri} has the layout {info['schema'][0]} of an earlier version. It can be read, not "
                f"continued: `rigface convert {self.store.uri} NEW` writes it in the layout {schema.FACES_VERSION}"
            )
        if info["config"] == name:
            return name
        now = _flat(asdict(settings), asdict(head), asdict(detector))
        before = _flat(
            _with_defaults(Settings, info["settings"]),
            _with_defaults(HeadSpec, info["head"]),
            _with_defaults(DetectorSpec, info["detector"]),
        )
        changed = differences(json.loads(json.dumps(now)), json.loads(json.dumps(before)))
        if not changed:
            return info["config"]
        raise PlanError(
            f"{self.store.uri} was made with other settings ({'; '.join(changed)}). A dataset has one set of settings: "
            "choose another OUT, go back to those settings, or delete the dataset with --overwrite."
        )

    def _check_root(self, info: dict[str, Any], root: str) -> None:
        earlier = info["settings"].get("root", "")
        adopt = f"`rigface adopt {self.store.uri} --root {earlier or root}`"
        if info.get("adopting"):
            raise PlanError(f"{self.store.uri}: {adopt} did not end; run it again")
        if root and not earlier:
            raise PlanError(f"{self.store.uri} holds absolute uris, which do not go with --root: {adopt} rewrites them")
        if earlier and not root:
            raise PlanError(f"{self.store.uri} holds uris relative to {earlier}: add --root with its present place")

    def begin_run(
        self, settings: Settings, head: HeadSpec, detector: DetectorSpec, overwrite: bool = False, part: str = ""
    ) -> str:
        """Prepare the dataset for a run, or a part of one, that passed `check`; returns the name of the
        configuration.
        """
        config = self.check(settings, head, detector, overwrite)
        if overwrite and self.info() is not None:
            self._clear()
        info = self.info() or {}
        if part and info:
            return config
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
            empty = schema.faces_schema(head, detector, settings.kept).empty_table()
            self.store.publish("faces/schema.parquet", parquet(empty))
        self.store.sweep()
        return config

    def _clear(self) -> None:
        """Remove the dataset's objects; rigface.json last, so that a kill in between leaves it recognisable."""
        for folder in ("faces", "inputs", IDENTITIES, PLANS, f"{INTERNAL}/units", quarantine.FOLDER):
            self.store.delete_folder(folder)
        self.plans = PlanStore(self.store)
        self.store.delete(run_info.RUN_INFO)

    # --- inputs that changed

    def stamps(self, uris: Iterable[str]) -> dict[str, str]:
        """Size and date, by uri, of those among these inputs that have a plan."""
        return {uri: plan.stamp for plans in self.plans.by_part(uris) for uri, plan in plans.items()}

    def add_plans(self, plans: list[Plan], before: dict[str, Plan], config: str) -> int:
        """Keep new plans; the number of inputs that lost the rows and units of an earlier content or other chunks."""
        changed = [before[p.uri] for p in plans if p.uri in before and not p.has_units_of(before[p.uri])]
        self._remove(changed, config)
        self.plans.add(plans)
        return len(changed)

    def forget(self, uris: Iterable[str]) -> None:
        """Remove all of some inputs, whose sources are gone for good; PlanError if one is not in the dataset."""
        plans = self.plans.load(uris)
        if unknown := sorted(set(uris) - plans.keys()):
            raise PlanError(f"{unknown[0]} is not an input of {self.store.uri}: name it as the column `uri` does")
        self._remove(list(plans.values()), (self.info() or {})["config"])
        remove_rows(self.store, PLANS, plans)  # last: a killed command can be run again
        self.plans = PlanStore(self.store)

    def retry(self, plans: list[Plan], config: str) -> None:
        """Undo failures of some inputs: rows, and units that failed without a face or were not read to the end."""
        self._remove(plans, config, only_failed=True)

    def _remove(self, plans: list[Plan], config: str, only_failed: bool = False) -> None:
        """Remove the rows and the units of some inputs."""
        self.reopen([plan.uri for plan in plans])
        units: dict[str, set[str]] = {}  # by shard
        for plan in plans:
            Quarantine(self.store).forget(plan.uri)
            for unit in units_of(plan, config):
                units.setdefault(unit.shard, set()).add(unit.unit_id)
        for shard, of_shard in units.items():
            self.drop(shard, partial(_is_removed, of_shard, only_failed))

    def drop(self, shard: str, is_removed: Callable[[Record], bool]) -> None:
        """Remove some units from a shard, if it is done; without any it is deleted, else written again without them."""
        try:
            path, records = self._stored(shard)
        except FileNotFoundError:
            return
        stay = [not is_removed(record) for record in records]
        kept = list(compress(records, stay))
        if not kept:
            self.store.delete(path)
        elif len(kept) < len(records) and path == part_path(shard):
            rows = compress(rows_of(self.store.table(path), records), stay)
            self.store.publish(path, parquet(with_records(pa.concat_tables(rows), kept)))
        elif len(kept) < len(records):
            self.store.publish(path, records_json(kept).encode())

    def reopen(self, uris: Collection[str]) -> None:
        """Remove the rows of some inputs, and the identities of their tracks, which are numbered anew."""
        if uris:
            remove_rows(self.store, IDENTITIES, uris)
            remove_rows(self.store, "inputs", uris)

    def sweep_orphans(self) -> None:
        """Remove shards of known inputs that are not in their latest plans: left by a kill, or committed late."""
        uris, shards = CompactSet(), CompactSet()
        for plan in self.plans.latest():
            uris.add(plan.uri)
            for shard in plan.shards:
                shards.add(shard)
        for shard in chain(*self.parts()):
            if shard not in shards:
                self.drop(shard, lambda record: record.uri in uris)

    # --- shards

    def done(self) -> CompactSet:
        """Names of all finished shards."""
        return CompactSet(chain(*self.parts()))

    def parts(self) -> tuple[Iterator[str], Iterator[str]]:
        """Names of the finished shards with faces, and of those with records only, as they are listed."""
        with_faces = self.store.names("faces", ".parquet")
        return (shard for shard in with_faces if shard != "schema"), self.store.names(f"{INTERNAL}/units", ".json")

    def records(self, shard: str) -> list[Record]:
        """The records of a finished shard's units, in the order of its rows, else FileNotFoundError."""
        return self._stored(shard)[1]

    def _stored(self, shard: str) -> tuple[str, list[Record]]:
        """The path of a finished shard, and its records."""
        try:
            return part_path(shard), records_of(self.store.schema(part_path(shard)))
        except FileNotFoundError:
            return error_path(shard), records_of_json(self.store.read(error_path(shard)))

    def units_in(self, shards: Iterable[str]) -> dict[str, Record]:
        """The records of all units in some finished shards, by unit."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return {record.unit_id: record for records in pool.map(self.records, shards) for record in records}

    # --- inputs

    def inputs_by_part(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rows of inputs/, or some columns of them, object by object."""
        return (self.store.table(path, columns) for path in self.store.paths("inputs", ".parquet"))

    def failed(self) -> CompactSet:
        """The inputs that could not be read, or not to their end."""
        failed = pa.array(["error", "partial"])
        tables = (table.filter(pc.is_in(table["status"], failed)) for table in self.inputs_by_part(["uri", "status"]))
        return CompactSet(uri for table in tables for uri in table["uri"].to_pylist())

    def inputs(self) -> pa.Table:
        tables = list(self.inputs_by_part())
        return pa.concat_tables(tables) if tables else schema.inputs_schema().empty_table()

    def add_inputs(self, rows: list[InputRow]) -> None:
        """Publish rows as one object."""
        if rows:
            columns = schema.inputs_schema()
            table = schema.table_of({n: [getattr(row, n) for row in rows] for n in columns.names}, columns)
            publish_by_hash(self.store, "inputs", table)


def _is_removed(units: Collection[str], only_failed: bool, record: Record) -> bool:
    has_failed = record.crash is not None or (record.status != "ok" and not record.faces)
    return record.unit_id in units and (has_failed or not only_failed)


def _flat(settings: dict[str, Any], head: dict[str, Any], detector: dict[str, Any]) -> dict[str, Any]:
    """All that decides the content of a row, each value by a name for a message."""
    models = {"head": head, "detector": detector}
    return settings | {f"{model}'s {name}": value for model, of in models.items() for name, value in of.items()}


def _with_defaults(kind: type, stored: dict[str, Any]) -> dict[str, Any]:
    """Stored fields; what an older version did not store has its default."""
    return {f.name: f.default for f in fields(kind)} | stored
