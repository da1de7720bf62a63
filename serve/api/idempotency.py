"""Idempotency keys: the same request sent twice is done once, and answered twice.

Path: `Idempotency-Key` of an edit -> `IdempotencyCache.once` -> the one piece of work and its result. A client that lost an answer
sends the request again and has the same picture; one that sends another request under the same key is told so.
In memory and of one door: a repeat that reaches another door is done again, with the same seed and so the same picture.

Work for which nobody waits any more is stopped, as without a key: a caller who leaves gives up their place at the door, and must
not leave work behind that no limit counts. Who comes again has it begun again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from serve.problems import ApiError

KEEP_S = 600.0
KEEP_BYTES = 256 * 2**20


@dataclass(eq=False)
class _Work:
    what: bytes
    task: asyncio.Task[Any]
    waiting: int = 0
    ended: float | None = None
    size: int = 0


class IdempotencyCache:
    """What was asked lately, under which key, and what came of it.

    Args:
        size_of: bytes that a result keeps alive. Results are kept for `KEEP_S`, and the oldest go beyond `most` bytes; what is
            under way stays whatever is kept, as those who wait for it are counted at the door.
    """

    def __init__(
        self, size_of: Callable[[Any], int], most: int = KEEP_BYTES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._size_of, self._most, self._now = size_of, most, now
        self._known: OrderedDict[Any, _Work] = OrderedDict()  # those that have ended: in the order in which they did

    async def once(self, key: Any, what: bytes, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result of the work, done now or before.

        Raises:
            Trouble: `conflict`, where the key came with another request before.
        """
        self._forget()
        known = self._known.get(key)
        if known is not None and known.what != what:
            raise ApiError("conflict", "this Idempotency-Key came with another request before")
        if known is None:
            known = self._known[key] = _Work(what, asyncio.ensure_future(work()))
        known.waiting += 1
        try:
            result = await asyncio.shield(known.task)
        except BaseException:
            known.waiting -= 1
            if not known.waiting:
                await self._drop(key, known)
            raise
        known.waiting -= 1
        if known.ended is None:
            self._end(key, known, result)
        return result

    def _end(self, key: Any, work: _Work, result: Any) -> None:
        work.ended, work.size = self._now(), self._size_of(result)
        if self._known.get(key) is work:
            self._known.move_to_end(key)
            self._forget()
            asyncio.get_running_loop().call_later(KEEP_S + 1, self._forget)

    async def _drop(self, key: Any, work: _Work) -> None:
        """It failed, or the last who waited for it has left."""
        if self._known.get(key) is work:
            del self._known[key]
        if not work.task.done():
            work.task.cancel()
            await asyncio.gather(work.task, return_exceptions=True)

    def _forget(self) -> None:
        ended = [(key, work, work.ended) for key, work in self._known.items() if work.ended is not None]
        total = sum(work.size for _, work, _ in ended)
        for key, work, since in ended:
            if total <= self._most and self._now() - since < KEEP_S:
                return
            total -= work.size
            del self._known[key]
