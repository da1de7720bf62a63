"""Plans kept in a dataset: the latest counts, and few parts are read."""

import time
import tracemalloc

from pipelines.extract.dataset import FaceDataset
from pipelines.extract.plan import Plan
from pipelines.extract.plan_store import PlanStore
from rigface.storage.store import Store


def plan(uri: str, sha256: str, shards: str = "") -> Plan:
    return Plan(uri, sha256=sha256, chunks=(None,) * len(shards), shards=tuple(shards))


def test_latest_plan_counts_even_if_the_clock_went_back(tmp_path, monkeypatch):
    """A run on a machine whose clock is a day behind replaces the plans of the run before."""
    now = time.time()
    first = FaceDataset(Store(str(tmp_path)))
    first.add_plans([plan("a", "old"), plan("b", "old")], {}, "config")
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    second = FaceDataset(Store(str(tmp_path)))
    known = second.plans.load(["a", "b"])
    assert second.add_plans([plan("a", "new")], known, "config") == 1
    stored = FaceDataset(Store(str(tmp_path))).plans.latest()
    assert {p.uri: p.sha256 for p in stored} == {"a": "new", "b": "old"}


def test_only_parts_that_hold_wanted_plans_are_read_and_each_once(tmp_path, monkeypatch):
    """Whatever the order of the names, which here are spread over all parts."""
    store = Store(str(tmp_path))
    for again in (False, True):
        plans = PlanStore(store)
        for k in range(4 - again):
            plans.add([plan(f"{i}{k}", "x") for i in range(3)])
    assert len(list(plans.latest())) == 12
    read = []
    real = Store.table
    monkeypatch.setattr(Store, "table", lambda self, path, *more: read.append(path) or real(self, path, *more))
    for kept in (plans, PlanStore(store)):  # the parts that it wrote itself, and those that it finds
        list(kept.by_part([]))
        read.clear()
        assert kept.load(["02", "23", "22", "99"]).keys() == {"02", "22", "23"}
        assert len(read) == 2


def test_inputs_and_shards_are_counted_by_their_latest_plans(tmp_path):
    plans = PlanStore(Store(str(tmp_path)))
    assert plans.count() == (0, 0)
    plans.add([plan("a", "old", "0"), plan("b", "x", "12")])
    plans.add([plan("a", "new", "23")])
    assert plans.count() == (2, 3)


def test_count_holds_one_part_of_the_plans_in_memory(tmp_path):
    plans = PlanStore(Store(str(tmp_path)))
    for k in range(20):
        plans.add([plan(f"/videos/{k}/{i}.mp4", "x") for i in range(200)])

    def peak(do) -> int:
        tracemalloc.start()
        do()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    plans.count()  # imports
    assert peak(plans.count) < peak(lambda: list(plans.latest())) / 4
