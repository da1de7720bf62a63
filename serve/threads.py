"""Work in threads, and whether one of them has not come back: nothing in a process can end a thread that hangs.

Path: a coroutine of `eye.py` -> `Threads` -> the work; its health check asks `is_stuck`, and Ray Serve replaces the process.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made")
STUCK_S = 300.0  # the slowest picture takes seconds; a queue of them behind one detector, two minutes


class Threads:
    """The threads of asyncio, with an eye on the clock.

    Args:
        stuck_s: what takes longer hangs.
    """

    def __init__(self, stuck_s: float = STUCK_S) -> None:
        self._stuck_s, self._number, self._begun = stuck_s, itertools.count(), dict[int, float]()

    async def __call__(self, work: Callable[..., Made], *args: Any) -> Made:
        """As `asyncio.to_thread`."""
        return await asyncio.to_thread(self._timed, work, args)

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
