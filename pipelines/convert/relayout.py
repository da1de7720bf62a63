"""A dataset of the layout before shards (faces/1) in that of today: the job of `rigface convert OUT NEW`.

Path: plans of OUT -> their units in shards -> an object per shard in NEW, of the units' objects in OUT -> plans,
inputs, run information, identities.

Rows are as before. A unit that OUT lacks is one that `extract` still has to do in NEW. A killed conversion is continued
by the same command; NEW has run information at the end only, and `extract` refuses it until then.
"""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import pyarrow as pa

from pipelines import run_info
from pipelines.extract.config import ExtractConfig
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.identities import identify
from pipelines.extract.layout import error_path, parquet, part_path, with_records
from pipelines.extract.plan import UnitPlan, units_of, with_shards
from pipelines.extract.unit import Record, records_json, records_of_json
from rigface import schema
from rigface.errors import OutputBusy, PlanError
from rigface.storage import lock
from rigface.storage.store import INTERNAL, Store

BEFORE = "faces/1"  # an object per unit, named after it, with one record
RECORD_KEY = b"rigface.unit"
MARK = f"{INTERNAL}/converting.json"  # the source, until the end
INPUTS, THREADS = 1000, 4  # inputs whose plans are in memory; shards written at once


def relayout(source: Store, store: Store, say: Callable[[str], None]) -> dict[str, int]:
    """Write the dataset again, in shards; counts of shards and rows written now.

    PlanError: the source is not of the layout before, or NEW holds other data. OutputBusy if a run writes to one of
    them.
    """
    info = run_info.load_own(source, "extract", ("faces", "inputs"))
    if info is None:
        raise PlanError(f"{source.uri} is not a RigFace dataset")
    if info["schema"][0] != BEFORE:
        raise PlanError(f"{source.uri} has the layout {info['schema'][0]} already; other coefficients: --reconstruct")
    if writer := lock.held(source):
        raise OutputBusy(f"{source.uri} is being written by another run ({writer}); wait for it")
    with lock.hold(store):
        mark = json.dumps({"from": source.uri}).encode()
        if store.exists(MARK):
            if store.read(MARK) != mark:
                raise PlanError(f"{store.uri} holds the begun conversion of another dataset; choose another NEW")
        elif run_info.load(store) is not None or any(store.paths("faces")):
            raise PlanError(f"{store.uri} holds data already; choose another NEW")
        store.publish(MARK, mark)
        counts = _write_all(source, FaceDataset(store), info["config"], say)
        FaceDataset(store).sweep_orphans()
        for path in source.paths("inputs", ".parquet"):
            store.publish(path, source.read(path))
        run_info.write(store, info | {"schema": [schema.FACES_VERSION, schema.INPUTS_VERSION]})
        say(str(identify(store, names=source)))
        store.delete(MARK)
    return counts


def _write_all(source: Store, dataset: FaceDataset, config: str, say: Callable[[str], None]) -> dict[str, int]:
    """Write all shards and plans."""
    store, done = dataset.store, dataset.done()
    empty = source.schema("faces/schema.parquet")
    wanted = schema.faces_schema(schema.head_of(empty), schema.detector_of(empty))
    store.publish("faces/schema.parquet", parquet(wanted.empty_table()))
    counts = {"shards": 0, "rows": 0}
    stored = FaceDataset(source).plans.latest()
    while plans := list(islice(stored, INPUTS)):
        plans = with_shards(plans, config, ExtractConfig.shard_frames)
        shards: dict[str, list[UnitPlan]] = {}
        for unit in (unit for plan in plans for unit in units_of(plan, config)):
            if unit.shard not in done:
                shards.setdefault(unit.shard, []).append(unit)
        with ThreadPoolExecutor(THREADS) as pool:
            for rows in pool.map(partial(_write, source, store, wanted), shards, shards.values()):
                counts["shards"] += 1
                counts["rows"] += rows
        dataset.plans.add(plans)
        say(f"{counts['shards']:,} shards, {counts['rows']:,} rows")
    return counts


def _write(source: Store, store: Store, wanted: pa.Schema, shard: str, units: Iterable[UnitPlan]) -> int:
    """Write one shard of the units that are done; the number of its rows."""
    found = [unit for unit in (_read(source, unit.unit_id, wanted) for unit in units) if unit is not None]
    records = [record for _, record in found]
    tables = [table for table, _ in found if table is not None]
    if tables:
        store.publish(part_path(shard), parquet(with_records(pa.concat_tables(tables), records)))
    elif records:
        store.publish(error_path(shard), records_json(records).encode())
    return sum(map(len, tables))


def _read(source: Store, unit_id: str, wanted: pa.Schema) -> tuple[pa.Table | None, Record] | None:
    """The rows and the record of a unit in the layout before; None if it is not done."""
    try:
        table = source.table(part_path(unit_id))
        (record,) = records_of_json(b"[" + table.schema.metadata[RECORD_KEY] + b"]")
        return table.select(wanted.names).replace_schema_metadata(wanted.metadata), record
    except FileNotFoundError:
        pass
    try:
        (record,) = records_of_json(b"[" + source.read(error_path(unit_id)) + b"]")
        return None, record
    except FileNotFoundError:
        return None
