"""Ray Data pipeline of the extract job: one row per shard, a pool of actors per group of stages, records back.

Path: the units of each shard -> a dataset of one-row blocks -> StageActor pools -> the driver reads the records as they
come.

Ray's settings, and why: no errored blocks are tolerated (dropping a block would lose a shard silently); a stage that
raises stops the job (network failures are retried below, in `rigface.storage.s3_client`); a stage that crashes its
actor again and again ends in `stall_s` without progress.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipelines.cluster.shortage import Need, shortage, watching
from pipelines.extract.config import ExtractConfig
from pipelines.extract.layout import plain_parquet
from pipelines.extract.plan import UnitPlan
from pipelines.extract.stages import DetectFaces, MaskAndScore, Reconstruct, StageActor, Write
from pipelines.extract.unit import Record, plans_json, records_of_json
from pipelines.inputs import open_input
from rigface.errors import JobBroken
from rigface.storage.store import INTERNAL, Store
from rigface.types import DetectorSpec, HeadSpec

MAX_BLOCKS = 4096  # shards; more are read from a Parquet file, because a block each costs the driver 3.6 ms
TASKS_IN_FLIGHT = 2  # shards given to an actor at a time: it need not wait for the next, which saves 50 to 150 ms each

StageArguments = dict[str, tuple[type, dict[str, Any]]]


def stage_arguments(config: ExtractConfig, head: HeadSpec, detector: DetectorSpec) -> StageArguments:
    """Each stage's class and the arguments of its constructor."""
    device = {name: "cuda" if pool.gpus else "cpu" for names, pool in config.pools for name in names}
    settings, place = {"settings": config.settings}, {"out": config.out, "part": config.part}
    remote = all(open_input.is_remote(named) for named in config.videos)
    limits = {"silence_s": config.silence_s, **place, "remote": remote}
    return {
        DetectFaces.name: (DetectFaces, {**settings, **limits, "device": device[DetectFaces.name]}),
        Reconstruct.name: (Reconstruct, {**settings, "device": device[Reconstruct.name]}),
        MaskAndScore.name: (MaskAndScore, {**settings, "device": device[MaskAndScore.name]}),
        Write.name: (Write, {**place, "head": head, "detector": detector, "columns": config.settings.kept}),
    }


def run_shards(
    config: ExtractConfig,
    head: HeadSpec,
    detector: DetectorSpec,
    shards: Sequence[Sequence[UnitPlan]],
    say: Callable[[str], None],
) -> Iterator[list[Record]]:
    """Run the shards, in any order; the records of each once it is committed.

    `say` is called with a sentence while actors wait for resources that are not free, and with an empty one after that.

    JobBroken if no shard finished for `stall_s`; RayError is an error of a stage or of the cluster, which
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
    dataset = _source(config, shards)
    arguments = stage_arguments(config, head, detector)
    for names, pool in config.pools:
        is_small = len(shards) <= 2 * pool.actors  # the first ready actor must not take the shards of the others
        dataset = dataset.map_batches(
            StageActor,
            fn_constructor_args=([arguments[name] for name in names], config.out, config.part),
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
    needs = [Need("+".join(names), p.cpus, p.gpus, p.memory_gb, p.actors) for names, p in config.pools]
    try:
        with watching(needs, say) as came:
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                came()
                for text in batch["records"].to_pylist():
                    yield records_of_json(text)
    except ExecutionTimeoutError as e:
        why = shortage(needs) or "all actors are placed"
        raise JobBroken(
            f"no unit of work finished for {config.stall_s:.0f} s; {why}. An actor may crash again and again: see "
            f"Ray's logs. Run the same command to continue. ({e})"
        ) from e


def _source(config: ExtractConfig, shards: Sequence[Sequence[UnitPlan]]) -> Any:
    """The shards as a Ray dataset whose blocks have one row each."""
    import ray.data

    rows = [{"plans": plans_json(units)} for units in shards]
    if len(rows) <= MAX_BLOCKS:
        # from_arrow would start tasks, and workers, for it.
        return ray.data.from_items(rows, override_num_blocks=len(rows))
    store, path = Store(config.out), f"{INTERNAL}/todo{config.part and '-' + config.part}.parquet"
    store.publish(path, plain_parquet(pa.Table.from_pylist(rows)))
    # A small file would become one block, and one task; only this repartition takes effect.
    return ray.data.read_parquet(store.at(path), filesystem=store.fs).repartition(target_num_rows_per_block=1)
