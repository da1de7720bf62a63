"""Deterministic order of examples per (seed, epoch), and reading of its batches ahead of use.

Path: parts of examples/ -> `BatchSampler` -> windows -> batches on the worker's device.

Ray Data 2.60 cannot resume in the middle of an epoch, so the order is a function of (seed, epoch) alone. A step
has `micro_batches` batches; each micro-batch has its own stretch of the epoch, and workers share the micro-batches. So
any number of workers sees the same batches in the same steps, a killed run goes on with the next batch, and a lost
worker changes only the speed. Rows are shuffled within windows of so many steps; parts are shuffled over the epoch.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipelines.examples.example_index import Part
from rigface.errors import PlanError

CACHE_BYTES = 2**30  # of parts already read, per process


@dataclass(frozen=True)
class ReadWindow:
    """The rows of some steps of an epoch, for some micro-batches: the unit of reading ahead.

    Rows are in order of use: step by step, micro-batch by micro-batch.
    """

    first: int  # its first step, from 0 over all epochs
    steps: int
    parts: np.ndarray  # (R,) part numbers of its rows
    rows: np.ndarray  # (R,) row numbers


class BatchSampler:
    """The order of all examples over all epochs.

    Args:
        rows: for each part, the numbers of its usable rows.
        batch: examples per micro-batch and step. micro_batches: batches per step.
        window: steps within which rows are shuffled.
        weights: for each dataset, its share of every step, of any sum; none: rows come in proportion to their number.
        datasets: for each dataset, its number of parts; with weights only.

    Raises:
        PlanError: there are no rows, or none in a dataset with a weight.
    """

    def __init__(
        self,
        rows: Sequence[np.ndarray],
        batch: int,
        micro_batches: int = 1,
        window: int = 64,
        seed: int = 0,
        weights: Sequence[float] = (),
        datasets: Sequence[int] = (),
    ) -> None:
        self.batch, self.micro_batches, self.window, self.seed = batch, micro_batches, window, seed
        self.rows = [np.asarray(r, np.int64) for r in rows]
        self.weights, self.datasets = tuple(weights), np.split(np.arange(len(rows)), np.cumsum(datasets)[:-1])
        total = sum(map(len, self.rows))
        if not total:
            raise PlanError("no examples to learn from")
        if self.weights and (empty := [k for k, parts in enumerate(self.datasets, 1) if not self.count(parts)]):
            raise PlanError(f"no examples to learn from in folder {empty[0]} of {len(self.datasets)}")
        self.steps_per_epoch = max(1, total // (batch * micro_batches))

    def count(self, parts: np.ndarray) -> int:
        """Number of rows of some parts."""
        return sum(len(self.rows[part]) for part in parts)

    def micro_batch_rows(self, epoch: int, micro_batch: int) -> np.ndarray:
        """(steps_per_epoch * batch, 2) part and row of everything a micro-batch sees in an epoch, in order."""
        all_rows = _epoch(self, epoch)
        length = self.steps_per_epoch * self.batch
        stretch = np.take(all_rows, np.arange(micro_batch * length, (micro_batch + 1) * length), axis=0, mode="wrap")
        random = np.random.default_rng([self.seed, epoch, micro_batch, 1])
        size = self.window * self.batch
        return np.concatenate([random.permutation(stretch[i : i + size]) for i in range(0, length, size)])

    def windows(self, micro_batches: Sequence[int], start: int = 0) -> Iterator[ReadWindow]:
        """Everything from step `start` (from 0) on, for these micro-batches, without end."""
        while True:
            epoch, within = divmod(start, self.steps_per_epoch)
            stop = min((within // self.window + 1) * self.window, self.steps_per_epoch)
            own = [
                self.micro_batch_rows(epoch, micro_batch)[within * self.batch : stop * self.batch]
                for micro_batch in micro_batches
            ]
            by_step = np.stack([m.reshape(stop - within, self.batch, 2) for m in own], axis=1).reshape(-1, 2)
            yield ReadWindow(start, stop - within, by_step[:, 0], by_step[:, 1])
            start += stop - within


@lru_cache(maxsize=4)
def _epoch(sampler: BatchSampler, epoch: int) -> np.ndarray:
    """(N, 2) part and row of all examples, parts in this epoch's order; with weights, as many rows in their shares."""
    if not sampler.weights:
        return _shown(sampler, epoch, 0, np.arange(len(sampler.rows)))
    total, shares = sum(map(len, sampler.rows)), np.cumsum(sampler.weights) / sum(sampler.weights)
    quotas = np.maximum(np.diff(np.rint(shares * total).astype(np.int64), prepend=0), 1)
    taken = []
    for dataset, (parts, quota) in enumerate(zip(sampler.datasets, quotas.tolist())):
        # Each goes through its own epochs, on from where the last epoch of all ended.
        places, count = np.arange(epoch * quota, (epoch + 1) * quota), sampler.count(parts)
        own, within = np.divmod(places, count)
        taken.append(np.concatenate([_shown(sampler, k, dataset, parts)[within[own == k]] for k in np.unique(own)]))
    evenly = np.concatenate([(np.arange(len(rows)) + 0.5) / len(rows) for rows in taken])
    return np.concatenate(taken)[np.argsort(evenly, kind="stable")]


def _shown(sampler: BatchSampler, epoch: int, dataset: int, parts: np.ndarray) -> np.ndarray:
    """(N, 2) part and row of all examples of a dataset's own epoch."""
    order = np.random.default_rng([sampler.seed, int(epoch), dataset]).permutation(parts)
    return np.concatenate([np.stack([np.full(len(sampler.rows[p]), p), sampler.rows[p]], 1) for p in order])


class Reader:
    """Reads windows of parts numbered as in `BatchSampler`; recent parts stay in memory, up to `cache_bytes`."""

    def __init__(self, parts: Sequence[Part], columns: Sequence[str], cache_bytes: int = CACHE_BYTES) -> None:
        self._parts, self._columns, self._cache_bytes = list(parts), list(columns), cache_bytes
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self._bytes = 0

    def __call__(self, window: ReadWindow) -> pa.Table:
        """The rows of a window, in its order."""
        numbers, position = np.unique(window.parts, return_inverse=True)
        tables = [self._part(int(n)) for n in numbers]
        starts = np.cumsum([0, *(len(t) for t in tables)])[:-1]
        return pa.concat_tables(tables).take(pa.array(starts[position] + window.rows)).combine_chunks()

    def _part(self, number: int) -> pa.Table:
        if number in self._tables:
            self._tables.move_to_end(number)
            return self._tables[number]
        table = self._parts[number].table(self._columns)
        self._tables[number] = table
        self._bytes += table.nbytes
        while self._bytes > self._cache_bytes and len(self._tables) > 1:
            self._bytes -= self._tables.popitem(last=False)[1].nbytes
        return table


def read_ahead(
    windows: Iterator[ReadWindow], read: Callable[[ReadWindow], pa.Table], ahead: int = 1
) -> Iterator[tuple[ReadWindow, pa.Table]]:
    """Windows with their rows, `ahead` of them read before use. Its thread ends when it is dropped."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        waiting = [(w, pool.submit(read, w)) for w in itertools.islice(windows, ahead)]
        while waiting:
            window, future = waiting.pop(0)
            following = next(windows, None)
            if following is not None:
                waiting.append((following, pool.submit(read, following)))
            yield window, future.result()
