"""Units of work over a pool of Ray actors, or in this process: for jobs with one stage (`pair`, `encode`).

Path: (name, plan) pairs -> a worker each -> records back as units are committed.

A worker is a callable that does one unit and commits it whole under its deterministic name, so that a unit done twice
is a unit done once. What a worker raises ends the job; data it cannot use it counts in its record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.cluster.session import connected

Unit = tuple[str, dict[str, Any]]
Work = Callable[[str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    workers: int = 0
    """Ray actors; 0: this process alone, without Ray."""
    cpus: float = 1.0
    """Ray CPUs each takes."""
    gpus: float = 0.0
    """Ray GPUs each takes. Above 0 it computes on CUDA."""
    address: str = ""
    """Ray cluster to join; empty: the one in RAY_ADDRESS, else one is started here."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


class _Actor:
    """A worker behind Ray Data's batches of one."""

    def __init__(self, make: Callable[..., Work], arguments: dict[str, Any]) -> None:
        self._work = make(**arguments)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        name, plan = str(batch["name"][0]), json.loads(str(batch["plan"][0]))
        return {"record": [json.dumps(self._work(name, plan))]}


def over(
    units: Sequence[Unit], make: Callable[..., Work], arguments: dict[str, Any], workers: Workers
) -> Iterator[dict[str, Any]]:
    """Do the units, in any order; yields the record of each once it is committed.

    Args:
        make: builds a worker; called once per actor, with `arguments`.
    """
    if not units:
        return
    if not workers.workers:
        work = make(**arguments)
        for name, plan in units:
            yield work(name, plan)
        return
    with connected(workers.address, workers.workers * workers.cpus):
        import ray.data
        from ray.data import ActorPoolStrategy

        context = ray.data.DataContext.get_current()
        context.max_errored_blocks = 0
        rows = [{"name": name, "plan": json.dumps(plan)} for name, plan in units]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_kwargs={"make": make, "arguments": arguments},
            batch_size=1,
            compute=ActorPoolStrategy(size=workers.workers),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus or None,
        )
        for row in dataset.iter_rows():
            yield json.loads(row["record"])
