"""Work in threads, and whether one of them has not come back: nothing in a process can end a thread that hangs.

Path: a coroutine of `eye.py` or `jobs.py` -> `WatchdogExecutor` -> the work; a health check asks `is_stuck`, and Ray Serve replaces the
process.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

Made = TypeVar("Made")
STUCK_S = 300.0  # the slowest picture takes seconds; a queue of them behind one detector, two minutes


class WatchdogExecutor:
    """The threads of asyncio, or a few of its own, with an eye on the clock.

    Args:
        stuck_s: what takes longer hangs.
        most: threads of its own. More work waits; what its caller has left before it began is not begun, and what it has begun
            holds its thread to the end, so that callers who leave do not make it more.
    """

    def __init__(self, stuck_s: float = STUCK_S, most: int | None = None) -> None:
        self._stuck_s, self._number, self._begun = stuck_s, itertools.count(), dict[int, float]()
        self._pool = None if most is None else ThreadPoolExecutor(most)

    async def __call__(self, work: Callable[..., Made], *args: Any) -> Made:
        """As `asyncio.to_thread`."""
        timed = partial(contextvars.copy_context().run, self._timed, work, args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, timed)

    @property
    def is_stuck(self) -> bool:
        """Whether some work hangs, of callers who have left, too."""
        return any(time.monotonic() - began > self._stuck_s for began in list(self._begun.values()))

    def _timed(self, work: Callable[..., Made], args: tuple[Any, ...]) -> Made:
        number = next(self._number)
        self._begun[number] = time.monotonic()
        try:
            return work(*args)
        finally:
            del self._begun[number]
