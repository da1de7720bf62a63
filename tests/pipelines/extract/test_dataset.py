"""What is kept about inputs and units, beside what test_extract.py sees of it."""

import time
import tracemalloc

from pipelines.extract.dataset import FaceDataset
from pipelines.extract.plan import empty_plan
from rigface.storage.store import Store


def plan(uri: str, sha256: str) -> dict:
    return {**empty_plan(uri), "sha256": sha256}


def test_the_latest_plan_counts_whatever_the_clock_says(tmp_path, monkeypatch):
    """A run on a machine whose clock is a day behind replaces the plans of the one before."""
    now = time.time()
    first = FaceDataset(Store(str(tmp_path)))
    first.add_plans([plan("a", "old"), plan("b", "old")], {}, "config")
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    second = FaceDataset(Store(str(tmp_path)))
    known = second.plans()
    assert second.add_plans([plan("a", "new")], known, "config") == 1
    assert {uri: p["sha256"] for uri, p in FaceDataset(Store(str(tmp_path))).plans().items()} == {
        "a": "new",
        "b": "old",
    }


def test_of_many_plans_only_those_are_read_that_can_be_wanted(tmp_path, monkeypatch):
    output = FaceDataset(Store(str(tmp_path)))
    for k in range(4):
        output.add_plans([plan(f"{k}{i}", "x") for i in range(3)], {}, "config")
    assert len(output.plans()) == 12
    read = []
    real = Store.table
    monkeypatch.setattr(Store, "table", lambda self, path, *more: read.append(path) or real(self, path, *more))
    assert output.plans(["20", "22", "99"]).keys() == {"20", "22"}
    assert len(read) == 2  # of the names from 20 to 99
    assert output.plans([]) == {}


def test_planned_inputs_and_their_units_are_counted_by_their_latest_plans(tmp_path):
    output = FaceDataset(Store(str(tmp_path)))
    assert output.planned() == (0, 0)
    output.add_plans(
        [{**plan("a", "old"), "chunks": [[0, 9]]}, {**plan("b", "x"), "chunks": [[0, 9], [9, 12]]}], {}, "config"
    )
    output.add_plans([{**plan("a", "new"), "chunks": [None] * 5}], {}, "config")
    assert output.planned() == (2, 7)


def test_counting_them_holds_one_part_of_the_plans(tmp_path):
    output = FaceDataset(Store(str(tmp_path)))
    for k in range(20):
        output.add_plans([plan(f"/videos/{k}/{i}.mp4", "x") for i in range(200)], {}, "config")

    def peak(do) -> int:
        tracemalloc.start()
        do()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    output.planned()  # what is imported on the way
    assert peak(output.planned) < peak(output.plans) / 4
