"""The output folder as a whole: what it was made with, what is planned, what is done, one row per input.

    OUT/rigface.json               settings, head, detector, package versions, git commit, and the latest runs
    OUT/faces/<2 hex>/<unit>.parquet   one object per unit that shows faces; its record is in the file's metadata
    OUT/faces/schema.parquet       no rows: any reader finds the columns, whatever was found
    OUT/inputs/<24 hex>.parquet    one row per finished input, written in batches
    OUT/.rigface/                  plans, records of units without faces, deaths, identities, lock, work left aside

A unit is done when its object is there; an input is done when its row is. Only the holder of the lock writes here, except
for units, whose objects appear whole and whose first commit wins.
"""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import run_info
from pipelines.extract import identities, quarantine
from pipelines.extract.config import Settings, config_hash, differences
from pipelines.extract.layout import error_path, parquet, part_path, record_of
from pipelines.extract.plan import Plan, units_of
from pipelines.inputs.compact_set import CompactSet
from rigface import schema
from rigface.errors import PlanError
from rigface.storage.store import IDENTITIES, INTERNAL, Store
from rigface.types import DetectorSpec, HeadSpec

PLANS = f"{INTERNAL}/plans"


class FaceDataset:
    """One dataset.

    Args:
        store: where it is.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._spans: dict[str, tuple[str, str]] = {}  # of parts of plans: first and last uri
        self._newest = 0.0

    # --- what it was made with

    def about(self) -> dict[str, Any] | None:
        """The run information, or None if there is none."""
        return run_info.load(self.store)

    def check(self, settings: Settings, head: HeadSpec, detector: DetectorSpec, overwrite: bool) -> None:
        """See whether a run with these settings may write here.

        Raises:
            PlanError: it was made with others, or it is not ours.
        """
        about = self.about()
        if about is None:
            theirs = [f for f in ("faces", "inputs") if next(iter(self.store.paths(f)), None)]
            if theirs:
                raise PlanError(
                    f"{self.store.uri} has {' and '.join(theirs)} but no {run_info.RUN_INFO}: it is not a dataset of ours, and nothing "
                    "of it will be touched. Choose another OUT."
                )
            return
        if overwrite or about["config"] == config_hash(settings, head, detector):
            return
        now = {**asdict(settings), "head model": asdict(head), "detector model": asdict(detector)}
        before = {**about["settings"], "head model": about["head"], "detector model": about["detector"]}
        changed = differences(json.loads(json.dumps(now)), before) or ["schema of another version"]
        raise PlanError(
            f"{self.store.uri} was made with other settings ({'; '.join(changed)}). One dataset has one kind of row: "
            "choose another OUT, go back to those settings, or throw it away with --overwrite."
        )

    def open(self, settings: Settings, head: HeadSpec, detector: DetectorSpec, overwrite: bool) -> str:
        """Make it ready for a run that `check` let in.

        Returns:
            The name of the configuration, part of every unit's name.
        """
        if overwrite and self.about() is not None:
            self._clear()
        about = self.about() or {}
        config = config_hash(settings, head, detector)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        run = {"started": now, **run_info.software()}
        about = {
            "schema": [schema.FACES_VERSION, schema.INPUTS_VERSION],
            "config": config,
            "settings": asdict(settings),
            "head": asdict(head),
            "detector": asdict(detector),
            "created": about.get("created", now),
            "commit": about.get("commit", run["commit"]),
            "packages": about.get("packages", run["packages"]),
            "runs": [*about.get("runs", []), run][-run_info.MAX_RUNS :],
        }
        run_info.write(self.store, about)
        if not self.store.exists("faces/schema.parquet"):
            empty = schema.faces_schema(head, detector).empty_table()
            self.store.publish("faces/schema.parquet", parquet(empty))
        self.store.sweep()
        return config

    def _clear(self) -> None:
        """Remove all that is ours; rigface.json last, so that a kill in between leaves it recognisable."""
        for folder in ("faces", "inputs", PLANS, f"{INTERNAL}/units", quarantine.FOLDER):
            self.store.delete_folder(folder)
        self.store.delete(IDENTITIES)
        self.store.delete(run_info.RUN_INFO)

    # --- plans

    def plans(self, uris: Iterable[str] | None = None) -> dict[str, Plan]:
        """The latest plan of every input that was ever planned, or of some inputs, by uri.

        A part none of whose inputs can be wanted, going by the first and last name in it, is not read twice.
        """
        wanted = None if uris is None else set(uris)
        first, last = (min(wanted), max(wanted)) if wanted else ("", "")
        latest: dict[str, tuple[float, str]] = {}
        for path in self.store.paths(PLANS, ".parquet"):
            if wanted is not None and path in self._spans:
                low, high = self._spans[path]
                if high < first or last < low:
                    continue
            table = self.store.table(path)
            names = table["uri"].to_pylist()
            self._spans[path] = min(names), max(names)
            for uri, planned, text in zip(names, *(table[n].to_pylist() for n in ("planned", "plan"))):
                self._newest = max(self._newest, planned)
                if (wanted is None or uri in wanted) and (uri not in latest or latest[uri][0] < planned):
                    latest[uri] = planned, text
        return {uri: json.loads(text) for uri, (_, text) in latest.items()}

    def planned(self) -> tuple[int, int]:
        """How many inputs were ever planned, and how many units their latest plans have; 20 bytes a plan in memory."""
        names, times, units = array("Q"), array("d"), array("L")
        for path in self.store.paths(PLANS, ".parquet"):
            table = self.store.table(path)
            times.extend(table["planned"].to_pylist())
            units.extend(len(json.loads(text)["chunks"]) for text in table["plan"].to_pylist())
            for uri in table["uri"].to_pylist():
                names.append(int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=8).digest()))
        order = np.lexsort((times, names))
        sorted_names = np.asarray(names)[order]
        latest = np.append(sorted_names[1:] != sorted_names[:-1], np.ones(min(len(names), 1), bool))
        return int(latest.sum()), int(np.asarray(units)[order][latest].sum())

    def add_plans(self, plans: list[Plan], before: dict[str, Plan], config: str) -> int:
        """Keep new plans. What was made from an earlier content of the same input is removed first.

        Returns:
            How many inputs that was so for.
        """
        changed = [before[p["uri"]] for p in plans if p["uri"] in before and before[p["uri"]]["sha256"] != p["sha256"]]
        self.forget(changed, config)
        if plans:
            self._newest = max(
                time.time(), self._newest + 1e-3
            )  # later than all before, whatever this machine's clock says
            columns = {
                "uri": [p["uri"] for p in plans],
                "planned": [self._newest] * len(plans),
                "plan": [json.dumps(p) for p in plans],
            }
            self._publish_named(PLANS, pa.table(columns))
        return len(changed)

    def forget(self, plans: list[Plan], config: str) -> None:
        """Remove the row and the units of some inputs."""
        if not plans:
            return
        uris = {p["uri"] for p in plans}
        self.remove_inputs(uris)
        identities.forget(self.store, uris)
        for plan in plans:
            quarantine.Quarantine(self.store).forget(plan["uri"])
            for unit, _ in units_of(plan, config):
                self.store.delete(part_path(unit))
                self.store.delete(error_path(unit))

    # --- units

    def done(self) -> CompactSet:
        """Names of the units that are done, those with faces and those with a record only."""
        with_faces, without = self.parts()
        return CompactSet(chain(with_faces, without))

    def parts(self) -> tuple[Iterator[str], Iterator[str]]:
        """Names of the units with faces, and of those with a record only, as they are listed."""
        with_faces = self.store.names("faces", ".parquet")
        return (unit for unit in with_faces if unit != "schema"), self.store.names(f"{INTERNAL}/units", ".json")

    def record(self, unit: str) -> dict[str, Any]:
        """What is kept about a finished unit.

        Raises:
            FileNotFoundError: it is not finished.
        """
        try:
            with self.store.open(part_path(unit)) as f:
                return record_of(pq.read_schema(f))
        except FileNotFoundError:
            return json.loads(self.store.read(error_path(unit)))

    # --- inputs

    def inputs_by_part(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rows of inputs/, or some columns of them, object by object."""
        return (self.store.table(path, columns) for path in self.store.paths("inputs", ".parquet"))

    def inputs(self) -> pa.Table:
        """All rows of inputs/."""
        tables = list(self.inputs_by_part())
        return pa.concat_tables(tables) if tables else schema.inputs_schema().empty_table()

    def add_inputs(self, rows: list[dict[str, Any]]) -> None:
        """Publish rows as one object."""
        if rows:
            wanted = schema.inputs_schema()
            self._publish_named("inputs", schema.table_of({n: [row[n] for row in rows] for n in wanted.names}, wanted))

    def remove_inputs(self, uris: Iterable[str]) -> None:
        """Take the rows of some inputs out again."""
        gone = pa.array(sorted(uris), pa.string())
        if not len(gone):
            return
        for path in self.store.paths("inputs", ".parquet"):
            table = self.store.table(path)
            kept = table.filter(pc.invert(pc.is_in(table["uri"], gone)))
            if not len(kept):
                self.store.delete(path)
            elif len(kept) < len(table):
                self.store.publish(path, _bytes(kept))

    def _publish_named(self, folder: str, table: pa.Table) -> None:
        """Publish a table under the hash of its content: the same batch again is the same object."""
        data = _bytes(table)
        self.store.publish(f"{folder}/{hashlib.sha256(data).hexdigest()[:24]}.parquet", data)


def _bytes(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
