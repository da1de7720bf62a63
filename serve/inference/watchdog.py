"""Work in threads with detection of threads that hang, which nothing in a process can end.

Path: a coroutine of a face worker or the job queue -> `WatchdogExecutor` -> the work; a health check asks `is_stuck`,
and Ray Serve replaces the process.
"""

import asyncio
import contextvars
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

Params = ParamSpec("Params")
Result = TypeVar("Result")
STUCK_S = 300.0  # the slowest image takes seconds; a queue of them for one detector, two minutes


class WatchdogExecutor:
    """The threads of asyncio, or `max_threads` of its own, where work that takes longer than `stuck_s` hangs.

    Work of an own pool waits, and is never started if its caller leaves meanwhile. Work that was started holds its
    thread to the end, so callers who leave cannot use more threads.
    """

    def __init__(self, stuck_s: float = STUCK_S, max_threads: int | None = None) -> None:
        self._stuck_s, self._ids, self._started_at = stuck_s, itertools.count(), dict[int, float]()
        self._pool = None if max_threads is None else ThreadPoolExecutor(max_threads)

    async def __call__(self, work: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """As `asyncio.to_thread`."""
        timed = partial(contextvars.copy_context().run, self._timed, partial(work, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._pool, timed)

    @property
    def is_stuck(self) -> bool:
        """True if some work hangs, including work of callers who have left."""
        return any(time.monotonic() - started_at > self._stuck_s for started_at in list(self._started_at.values()))

    def _timed(self, work: Callable[[], Result]) -> Result:
        work_id = next(self._ids)
        self._started_at[work_id] = time.monotonic()
        try:
            return work()
        finally:
            del self._started_at[work_id]
