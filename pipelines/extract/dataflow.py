"""Ray Data pipeline of the extract job: one row per unit, a pool of actors per group of stages, records back.

Path: unit plans -> a dataset of one-row blocks -> StageActor pools -> the driver reads the records as they come.

Ray's settings, and why: no errored blocks are tolerated (dropping a block would lose a unit silently); a stage that
raises stops the job (network failures are retried below, in `rigface.storage.s3_client`); a stage that crashes its
actor again and again ends in `stall_s` without progress.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.extract.config import ExtractConfig
from pipelines.extract.layout import plain_parquet
from pipelines.extract.plan import UnitPlan
from pipelines.extract.stages import DetectFaces, MaskAndScore, Reconstruct, StageActor, Write
from pipelines.extract.unit import Record
from pipelines.inputs import open_input
from rigface.errors import JobBroken
from rigface.storage.store import INTERNAL, Store
from rigface.types import DetectorSpec, HeadSpec

MAX_BLOCKS = 4096  # units; more are read from a Parquet file, because a block each costs the driver 3.6 ms
TASKS_IN_FLIGHT = 2  # units given to an actor at a time: it need not wait for the next, which saves 50 to 150 ms a unit

StageArguments = dict[str, tuple[type, dict[str, Any]]]


def stage_arguments(config: ExtractConfig, head: HeadSpec, detector: DetectorSpec) -> StageArguments:
    """Each stage's class and the arguments of its constructor."""
    device = {name: "cuda" if pool.gpus else "cpu" for names, pool in config.pools for name in names}
    settings = {"settings": config.settings}
    remote = all(open_input.is_remote(named) for named in config.videos)
    limits = {"silence_s": config.silence_s, "out": config.out, "remote": remote}
    return {
        DetectFaces.name: (DetectFaces, {**settings, **limits}),
        Reconstruct.name: (Reconstruct, {**settings, "device": device[Reconstruct.name]}),
        MaskAndScore.name: (MaskAndScore, {**settings, "device": device[MaskAndScore.name]}),
        Write.name: (Write, {"out": config.out, "head": head, "detector": detector}),
    }


def run_units(config: ExtractConfig, head: HeadSpec, detector: DetectorSpec, units: list[UnitPlan]) -> Iterator[Record]:
    """Run the units, in any order; the record of each once it is committed.

    JobBroken if no unit finished for `stall_s`; RayError is an error of a stage or of the cluster, which
    `session.connected` translates.
    """
    import ray.data
    from ray.data import ActorPoolStrategy
    from ray.data.exceptions import ExecutionTimeoutError

    # A small job has fewer units than actors.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = 0
    context.raise_original_map_exception = True  # its wrapper would lose it on the way
    context.execution_no_progress_timeout_s = config.stall_s
    dataset = _source(config, units)
    arguments = stage_arguments(config, head, detector)
    for names, pool in config.pools:
        is_small = len(units) <= 2 * pool.actors  # the first ready actor must not take the units of the others
        dataset = dataset.map_batches(
            StageActor,
            fn_constructor_kwargs={"stages": [arguments[name] for name in names]},
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=pool.actors,
                max_size=pool.max_actors or pool.actors,
                max_tasks_in_flight_per_actor=1 if is_small else TASKS_IN_FLIGHT,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            memory=pool.memory_gb * 2**30 or None,
        )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for text in batch["record"].to_pylist():
                yield Record.from_json(text)
    except ExecutionTimeoutError as e:
        raise JobBroken(
            f"no unit of work finished for {config.stall_s:.0f} s. Either the cluster lacks the resources of the "
            "pools, "
            f"or an actor crashes again and again: see Ray's logs. Run the same command to continue. ({e})"
        ) from e


def _source(config: ExtractConfig, units: list[UnitPlan]) -> Any:
    """The units as a Ray dataset whose blocks have one row each."""
    import ray.data

    rows = [{"plan": unit.to_json()} for unit in units]
    if len(rows) <= MAX_BLOCKS:
        # from_arrow would start tasks, and workers, for it.
        return ray.data.from_items(rows, override_num_blocks=len(rows))
    store, path = Store(config.out), f"{INTERNAL}/todo.parquet"
    store.publish(path, plain_parquet(pa.Table.from_pylist(rows)))
    # A small file would become one block, and one task; only this repartition takes effect.
    return ray.data.read_parquet(store.at(path), filesystem=store.fs).repartition(target_num_rows_per_block=1)
