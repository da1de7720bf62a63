"""Idempotency keys: the same request sent twice is done once, and answered twice.

Path: `Idempotency-Key` of an edit -> `Repeats.once` -> the one piece of work and its result. A client that lost an answer
sends the request again and has the same picture; one that sends another request under the same key is told so.
In memory and of one door: a repeat that reaches another door is done again, with the same seed and so the same picture.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from serve.problems import Trouble

KEEP_S = 600.0
KEEP_MOST = 256


class Repeats:
    """What was asked lately, under which key, and what came of it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._known: OrderedDict[Any, tuple[bytes, float, asyncio.Task]] = OrderedDict()

    async def once(self, key: Any, what: bytes, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result of the work, done now or before.

        The work goes on when one of those who wait for it leaves: another may come for it.

        Raises:
            Trouble: `conflict`, where the key came with another request before.
        """
        self._forget()
        known = self._known.get(key)
        if known is not None and known[0] != what:
            raise Trouble("conflict", "this Idempotency-Key came with another request before")
        if known is None or (known[2].done() and (known[2].cancelled() or known[2].exception() is not None)):
            known = what, self._now(), asyncio.ensure_future(work())
            self._known[key] = known
        return await asyncio.shield(known[2])

    def _forget(self) -> None:
        while self._known:
            _, since, task = next(iter(self._known.values()))
            if len(self._known) <= KEEP_MOST and self._now() - since < KEEP_S:
                return
            if not task.done() and len(self._known) <= KEEP_MOST:
                return
            self._known.popitem(last=False)
