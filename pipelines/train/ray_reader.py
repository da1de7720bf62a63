"""Windows of examples read by Ray Data, on whatever node has a CPU to spare, and handed over in our order.

Path: `Order.windows` -> Ray Data (one row a window, `preserve_order`) -> the same (window, rows) as `feed.read_ahead`.

Each worker runs its own dataset of its own windows. Ray's `get_dataset_shard` would cut the data its own way, which cannot
resume inside an epoch and changes with the number of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipelines.train.batch_sampler import Reader, ReadWindow
from rigface.storage.store import Store

AHEAD = 2  # windows read before they are asked for
STRETCH = 64  # windows per dataset: starting one takes part of a second
READ_CPUS = 0.25


class _Read:
    """One window in, its rows out. A reader per actor, so that parts read lately stay in its memory."""

    def __init__(self, uri: str, parts: Sequence[str], columns: Sequence[str]) -> None:
        self._read = Reader(Store(uri), parts, columns)

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        window = ReadWindow(0, int(batch["steps"][0]), batch["parts"][0], batch["rows"][0])
        return self._read(window)


def read_with_ray(
    windows: Iterator[ReadWindow], source: Store, parts: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[ReadWindow, pa.Table]]:
    """Windows with their rows, in order, read by Ray Data."""
    import ray.data
    from ray.data import ActorPoolStrategy, ExecutionOptions

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    options = ExecutionOptions(preserve_order=True)
    context.execution_options = options
    while stretch := list(itertools.islice(windows, STRETCH)):
        items = [{"steps": w.steps, "parts": w.parts, "rows": w.rows} for w in stretch]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Read,
            fn_constructor_args=(source.uri, list(parts), list(columns)),
            batch_size=1,
            compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=AHEAD),
            num_cpus=READ_CPUS,
        )
        waiting = iter(stretch)
        left: list[pa.Table] = []
        window = next(waiting)
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=AHEAD):
            left.append(table)
            while window is not None and sum(map(len, left)) >= len(window.rows):
                whole = pa.concat_tables(left)
                yield window, whole.slice(0, len(window.rows)).combine_chunks()
                left = [whole.slice(len(window.rows))]
                window = next(waiting, None)  # type: ignore[assignment]
