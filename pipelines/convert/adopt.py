"""Relative uris for a dataset that has absolute ones: the job of `rigface adopt`.

Path: plans, inputs/, faces/, records of units and identities -> the same objects with relative uris, one after another.

Each object is replaced whole, and units keep their names (`Plan.first_uri`): at any moment a reader finds every face
once, under the one uri or the other. A killed run is continued by the same command; `extract` refuses the dataset
until then. Nothing is read but the dataset: the root may be one that is no longer mounted.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from pipelines import run_info
from pipelines.extract import quarantine
from pipelines.extract.config import Settings
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.identities import rename_inputs
from pipelines.extract.layout import parquet, plain_parquet, records_of, with_records
from pipelines.extract.plan import Plan
from pipelines.extract.plan_store import PLANS
from pipelines.extract.unit import records_json, records_of_json
from pipelines.inputs import sources
from rigface.errors import PlanError
from rigface.storage import lock
from rigface.storage.store import INTERNAL, Store

THREADS = 4

Rename = Callable[[str], str]


def adopt(store: Store, root: str) -> int:
    """Make the uris of a dataset relative to a root; the number of inputs. OutputBusy if a run writes to it.

    PlanError: it is no dataset, has relative uris already, or an input does not lie below the root.
    """
    root = Settings(root=root).root
    dataset = FaceDataset(store)
    if "detector" not in (dataset.info() or {}):
        raise PlanError(f"{store.uri} is not a RigFace dataset")
    with lock.hold(store):
        info = dataset.info() or {}
        earlier, is_begun = info["settings"].get("root", ""), bool(info.get("adopting"))
        if earlier and not (is_begun and earlier == root):
            advice = "`adopt` did not end, run it with that" if is_begun else "give `extract --root` its present place"
            raise PlanError(f"{store.uri} holds uris relative to {earlier}: {advice}")
        count = 0
        for plan in dataset.plans.latest():
            if not is_begun:
                sources.relative(plan.uri, root)  # raises before anything is written
            count += 1
        info["settings"]["root"] = root
        run_info.write(store, info | {"adopting": True})
        _rewrite_all(dataset, lambda uri: _renamed(uri, root))
        run_info.write(store, {name: value for name, value in info.items() if name != "adopting"})
    return count


def _renamed(uri: str, root: str) -> str:
    try:
        return sources.relative(uri, root)
    except PlanError:  # relative since an earlier, killed run
        return uri


def _rewrite_all(dataset: FaceDataset, renamed: Rename) -> None:
    store = dataset.store
    for path in store.paths(PLANS, ".parquet"):
        table = store.table(path)
        plans = [_renamed_plan(Plan.from_json(text), renamed) for text in table["plan"].to_pylist()]
        table = _with(table, "plan", [plan.to_json() for plan in plans])
        store.publish(path, plain_parquet(_with(table, "uri", [plan.uri for plan in plans])))
    for path in store.paths("inputs", ".parquet"):
        table = store.table(path)
        store.publish(path, plain_parquet(_with(table, "uri", list(map(renamed, table["uri"].to_pylist())))))
    parts = (path for path in store.paths("faces", ".parquet") if not path.endswith("/schema.parquet"))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda path: _rewrite_part(store, path, renamed), parts))
        without_faces = store.paths(f"{INTERNAL}/units", ".json")
        list(pool.map(lambda path: _rewrite_records(store, path, renamed), without_faces))
    rename_inputs(store, renamed)
    store.delete_folder(quarantine.FOLDER)  # named by uris; crashes of unfinished units count anew


def _renamed_plan(plan: Plan, renamed: Rename) -> Plan:
    uri = renamed(plan.uri)
    return plan if uri == plan.uri else replace(plan, uri=uri, first_uri=plan.first_uri or plan.uri)


def _rewrite_part(store: Store, path: str, renamed: Rename) -> None:
    before = records_of(store.schema(path))
    records = [replace(record, uri=renamed(record.uri)) for record in before]
    if records != before:
        table = store.table(path)
        table = _with(table, "uri", list(map(renamed, table["uri"].to_pylist())))
        store.publish(path, parquet(with_records(table, records)))


def _rewrite_records(store: Store, path: str, renamed: Rename) -> None:
    records = [replace(record, uri=renamed(record.uri)) for record in records_of_json(store.read(path))]
    store.publish(path, records_json(records).encode())


def _with(table: pa.Table, name: str, values: list[str]) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, pa.string()))
