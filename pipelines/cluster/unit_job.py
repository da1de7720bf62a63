"""Resumable units of work over a pool of Ray actors, or in this process: the loop of `pair`, `encode`, `evaluate`
and `judge`.

Path: planned units -> those whose object is not in the output yet -> a worker each -> counts.

A worker does one unit and commits it whole under its deterministic name, so a unit done twice is a unit done once. An
exception of a worker ends the job; data it cannot use is part of its counts.
"""

import hashlib
import pickle
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from pipelines.cluster.session import connected
from pipelines.cluster.workers import Workers
from rigface.storage.store import Store

PROGRESS_S = 5.0  # at least so long between two lines of progress

Plan = TypeVar("Plan")
PlanIn = TypeVar("PlanIn", contravariant=True)


@dataclass(frozen=True)
class Unit(Generic[Plan]):
    """A unit of work: what to do, and the name of the object it becomes."""

    name: str
    plan: Plan


class Worker(Protocol[PlanIn]):
    """A callable that does one unit; built once per actor."""

    def __call__(self, unit: str, plan: PlanIn, /) -> Mapping[str, int]:
        """Do a unit and commit it; returns counts by name."""
        ...


def unit_name(*parts: str) -> str:
    """The name of a unit: a hash of all that decides its content."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def run_units(
    units: Sequence[Unit[Plan]],
    make_worker: Callable[[], Worker[Plan]],
    workers: Workers,
    store: Store,
    folder: str,
    check: Callable[[], None],
    say: Callable[[str], None],
    finished: Container[str] | None = None,
) -> Counter[str]:
    """Do the units that have no Parquet object below `folder` of the output yet, in any order; their summed counts.

    `make_worker` is pickled and called once per actor, `check` (of the output's lock) after each unit. `finished` names
    the units that are done if that is not told by the objects below `folder`.
    """
    done = store.ids(folder, ".parquet") if finished is None else finished
    todo = [unit for unit in units if unit.name not in done]
    say(f"{len(units):,} units, {len(todo):,} to do")
    counts: Counter[str] = Counter()
    began = spoke = time.monotonic()
    for k, unit_counts in enumerate(_results(todo, make_worker, workers), 1):
        counts.update(unit_counts)
        check()
        now = time.monotonic()
        if k == len(todo) or now - spoke >= PROGRESS_S:
            spoke, left_s = now, (now - began) / k * (len(todo) - k)
            summed = "".join(f", {count:,} {name}" for name, count in counts.items() if name != "units")
            say(f"{k:,}/{len(todo):,} units{summed}, about {left_s:.0f} s left")
    return counts


def _results(
    units: Sequence[Unit[Plan]], make_worker: Callable[[], Worker[Plan]], workers: Workers
) -> Iterator[Mapping[str, int]]:
    """The counts of each unit once it is committed."""
    if not units:
        return
    if not workers.workers:
        work = make_worker()
        for unit in units:
            yield work(unit.name, unit.plan)
        return
    with connected(workers.address, workers.workers * workers.cpus):
        import ray.data
        from ray.data import ActorPoolStrategy

        context = ray.data.DataContext.get_current()
        context.max_errored_blocks = 0
        context.raise_original_map_exception = True  # its wrapper would lose it on the way
        dataset = ray.data.from_items(
            [{"unit": pickle.dumps(unit)} for unit in units], override_num_blocks=len(units)
        ).map_batches(
            _Actor,
            fn_constructor_args=(make_worker,),
            batch_size=1,
            compute=ActorPoolStrategy(size=workers.workers),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus or None,
        )
        for row in dataset.iter_rows():
            yield pickle.loads(row["counts"])


class _Actor(Generic[Plan]):
    """A worker behind Ray Data's batches of one row."""

    def __init__(self, make_worker: Callable[[], Worker[Plan]]) -> None:
        self._work = make_worker()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        unit: Unit[Plan] = pickle.loads(batch["unit"][0])
        return {"counts": [pickle.dumps(dict(self._work(unit.name, unit.plan)))]}
