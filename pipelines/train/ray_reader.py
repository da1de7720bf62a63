"""Windows of examples read by Ray Data on any node with a free CPU, in the order of `BatchSampler`.

Path: `BatchSampler.windows` -> Ray Data (one row a window, `preserve_order`) -> the same (window, rows) as
`read_ahead`.

Each worker runs its own dataset of its own windows. Ray's `get_dataset_shard` cannot resume inside an epoch, and its
shards change with the number of workers.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipelines.examples.example_index import Part
from pipelines.train.batch_sampler import Reader, ReadWindow

AHEAD = 2  # windows read before use
DATASET_WINDOWS = 64  # windows per dataset: starting one takes part of a second
READ_CPUS = 0.25


class _Read:
    """One window in, its rows out. A reader per actor, so that recent parts stay in its memory."""

    def __init__(self, parts: Sequence[Part], columns: Sequence[str]) -> None:
        self._read = Reader(parts, columns)

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        window = ReadWindow(0, int(batch["steps"][0]), batch["parts"][0], batch["rows"][0])
        return self._read(window)


def read_with_ray(
    windows: Iterator[ReadWindow], parts: Sequence[Part], columns: Sequence[str]
) -> Iterator[tuple[ReadWindow, pa.Table]]:
    """Windows with their rows, in order, read by Ray Data."""
    import ray.data
    from ray.data import ActorPoolStrategy, ExecutionOptions

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    options = ExecutionOptions(preserve_order=True)
    context.execution_options = options
    while chunk := list(itertools.islice(windows, DATASET_WINDOWS)):
        items = [{"steps": w.steps, "parts": w.parts, "rows": w.rows} for w in chunk]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Read,
            fn_constructor_args=(list(parts), list(columns)),
            batch_size=1,
            compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=AHEAD),
            num_cpus=READ_CPUS,
        )
        waiting = iter(chunk)
        buffered: list[pa.Table] = []
        window: ReadWindow | None = next(waiting)
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=AHEAD):
            buffered.append(table)
            while window is not None and sum(map(len, buffered)) >= len(window.rows):
                rows = pa.concat_tables(buffered)
                yield window, rows.slice(0, len(window.rows)).combine_chunks()
                buffered = [rows.slice(len(window.rows))]
                window = next(waiting, None)
