"""Jobs that read a dataset input by input: all inputs in this process, or shares of them on Ray.

Path: a worker that does a share of the inputs and yields counts -> `run_shares` -> summed counts.

A worker finds out itself what of its share is done already, so a share that is begun again goes on.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.cluster.unit_job import PROGRESS_S, Unit, run_units
from pipelines.cluster.workers import Workers
from rigface.storage.store import Store

SHARES_PER_WORKER = 4

Counts = dict[str, int]


@dataclass(frozen=True)
class Share:
    """Share number `number` of `of` of all inputs, by hash."""

    number: int = 0
    of: int = 1

    def __contains__(self, uri: str) -> bool:
        return int(hashlib.sha256(uri.encode()).hexdigest()[:8], 16) % self.of == self.number


ShareWorker = Callable[[Share], Iterator[Counts]]


def run_shares(
    make_worker: Callable[[], ShareWorker],
    todo: int,
    pool: Workers,
    store: Store,
    check: Callable[[], None],
    say: Callable[[str], None],
) -> Counts:
    """Run a job on all inputs, of which `todo` are to do; summed counts, among them `inputs`.

    `check` (of the output's lock) is called after each piece of work.
    """
    if pool.workers:
        shares = [Share(k, SHARES_PER_WORKER * pool.workers) for k in range(SHARES_PER_WORKER * pool.workers)]
        units = [Unit(f"share-{share.number}", share) for share in shares]
        return dict(run_units(units, lambda: _Whole(make_worker()), pool, store, "", check, say, finished=()))
    total: Counter[str] = Counter()
    began = spoke = time.monotonic()
    for counts in make_worker()(Share()):
        check()
        total.update(counts)
        if (now := time.monotonic()) - spoke >= PROGRESS_S and total["inputs"]:
            spoke, left_s = now, (now - began) / total["inputs"] * (todo - total["inputs"])
            others = "".join(f", {count:,} {name}" for name, count in total.items() if name != "inputs")
            say(f"{total['inputs']:,}/{todo:,} inputs{others}, about {left_s:.0f} s left")
    return dict(total)


class _Whole:
    """A worker that does a share as one unit."""

    def __init__(self, work: ShareWorker) -> None:
        self._work = work

    def __call__(self, unit: str, share: Share) -> Counts:
        total: Counter[str] = Counter()
        for counts in self._work(share):
            total.update(counts)
        return dict(total)
