"""Units through the stages on Ray Data: one row per unit, a pool of actors per group of stages, records back.

Path: (unit, plan) pairs -> a dataset of one-row blocks -> StageActor pools -> the driver reads the records as they come.

What Ray is told, and why: no errored blocks are forgiven (dropping a block would lose a unit without a word); a stage that
raises stops the job (hiccups of the network are tried again below, in `rigface.storage.s3_client`); a stage that crashes its actor again and
again ends in `stall_s` without progress.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.extract.config import Extract
from pipelines.extract.stages import DetectFaces, MaskAndScore, Reconstruct, StageActor, Write
from rigface.errors import JobBroken, RigFaceError
from rigface.storage.store import INTERNAL, Store
from rigface.types import DetectorSpec, HeadSpec

MANY = 4096  # units; beyond, the driver hands out a Parquet file of them instead of a block each (3.6 ms apiece)
IN_FLIGHT = (
    2  # units an actor is given at a time: the next one is there when it is done, which saves 50 to 150 ms a unit
)
RAYS_WORDS = "\nFailed to apply UDF transform after"  # Ray appends its advice to the text of whatever a stage raised

Todo = list[tuple[str, dict[str, Any]]]


def arguments(config: Extract, head: HeadSpec, detector: DetectorSpec) -> dict[str, tuple[type, dict[str, Any]]]:
    """Each stage's class and what it is built with."""
    device = {name: "cuda" if pool.gpus else "cpu" for names, pool in config.pools for name in names}
    return {
        "look": (DetectFaces, {"settings": config.settings, "silence_s": config.silence_s, "out": config.out}),
        "reconstruct": (Reconstruct, {"settings": config.settings, "device": device["reconstruct"]}),
        "finish": (MaskAndScore, {"settings": config.settings, "device": device["finish"]}),
        "write": (Write, {"out": config.out, "head": head, "detector": detector}),
    }


def run_units(config: Extract, head: HeadSpec, detector: DetectorSpec, todo: Todo) -> Iterator[dict[str, Any]]:
    """Do the units, in any order.

    Yields:
        The record of each unit once it is committed.

    Raises:
        RigFaceError: what a stage raised on purpose, such as MissingAsset.
        JobBroken: no unit moved for `stall_s`.
        ray.exceptions.RayError: a stage has a bug; its traceback is inside.
    """
    import ray.data
    from ray.data import ActorPoolStrategy
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError

    # Fewer units than actors is what a small job is.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = 0
    context.raise_original_map_exception = True  # what wraps it otherwise loses it on the way
    context.execution_no_progress_timeout_s = config.stall_s
    dataset = _source(config, todo)
    made = arguments(config, head, detector)
    for names, pool in config.pools:
        is_small = len(todo) <= 2 * pool.actors  # then the first actor that is ready would take what is another's
        dataset = dataset.map_batches(
            StageActor,
            fn_constructor_kwargs={"stages": [made[name] for name in names]},
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=pool.actors,
                max_size=pool.most or pool.actors,
                max_tasks_in_flight_per_actor=1 if is_small else IN_FLIGHT,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            memory=pool.memory_gb * 2**30 or None,
        )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for text in batch["record"].to_pylist():
                yield json.loads(text)
    except ExecutionTimeoutError as e:
        raise JobBroken(
            f"no unit of work moved for {config.stall_s:.0f} s. Either the cluster lacks what the pools ask for, or an actor "
            f"crashes again and again; Ray's logs say which. Run the same command to go on. ({e})"
        ) from e
    except RayError as e:
        if cause := _on_purpose(e):
            raise cause from e
        raise


def _source(config: Extract, todo: Todo) -> Any:
    """The units as a Ray dataset whose blocks have one row each."""
    import ray.data

    rows = [{"unit_id": unit, "plan": json.dumps(plan)} for unit, plan in todo]
    if len(rows) <= MANY:
        return ray.data.from_items(
            rows, override_num_blocks=len(rows)
        )  # from_arrow would start tasks, and workers, for it
    store, path = Store(config.out), f"{INTERNAL}/todo.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    store.publish(path, sink.getvalue())
    # A small file would become one block, and one task; only this repartition takes effect.
    return ray.data.read_parquet(store.at(path), filesystem=store.fs).repartition(target_num_rows_per_block=1)


def _on_purpose(error: BaseException | None) -> RigFaceError | None:
    """The error of ours that a Ray error carries, if it does."""
    from ray.exceptions import RayTaskError

    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, RigFaceError) and not isinstance(error, RayTaskError):  # Ray's is both, and says a page
            error.args = (str(error).partition(RAYS_WORDS)[0],)
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__
    return None
