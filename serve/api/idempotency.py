"""Idempotency keys: a request that is sent twice is done once and answered twice.

Path: `Idempotency-Key` of an edit -> `IdempotencyCache.once` -> one piece of work and its result. A client that lost a
response sends the request again and gets the same picture; another request under the same key is a conflict. In memory
of one gateway: a repeat that reaches another gateway is done again, with the same seed and so the same picture.

Work without waiting callers is cancelled, because a caller that disconnected does not count as a concurrent request any
more. A repeat starts it again.
"""

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
    digest: bytes
    task: asyncio.Task[Any]
    waiting: int = 0
    ended: float | None = None
    size: int = 0


class IdempotencyCache:
    """Recent requests by key, with their results.

    Results are kept for `KEEP_S`, and the oldest go beyond `max_bytes`; running work is always kept, and its callers
    count as concurrent requests.
    """

    def __init__(
        self, size_of: Callable[[Any], int], max_bytes: int = KEEP_BYTES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._size_of, self._max_bytes, self._now = size_of, max_bytes, now
        self._known: OrderedDict[Any, _Work] = OrderedDict()  # ended ones in the order in which they ended

    async def once(self, key: Any, digest: bytes, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result of the work, done now or before; `conflict` if the key came with another request's digest."""
        self._forget()
        known = self._known.get(key)
        if known is not None and known.digest != digest:
            raise ApiError("conflict", "this Idempotency-Key was used for another request")
        if known is None:
            known = self._known[key] = _Work(digest, asyncio.ensure_future(work()))
        known.waiting += 1
        try:
            return await asyncio.shield(known.task)
        finally:
            known.waiting -= 1
            await self._left(key, known)

    async def _left(self, key: Any, work: _Work) -> None:
        """Keep the result of work that is done; remove work that failed, or whose last caller disconnected."""
        if work.task.done() and not work.task.cancelled() and work.task.exception() is None:
            if work.ended is None and self._known.get(key) is work:
                work.ended, work.size = self._now(), self._size_of(work.task.result())
                self._known.move_to_end(key)
                self._forget()
                asyncio.get_running_loop().call_later(KEEP_S + 1, self._forget)
        elif not work.waiting:
            if self._known.get(key) is work:
                del self._known[key]
            work.task.cancel()
            await asyncio.gather(work.task, return_exceptions=True)

    def _forget(self) -> None:
        ended = [(key, work, work.ended) for key, work in self._known.items() if work.ended is not None]
        total = sum(work.size for _, work, _ in ended)
        for key, work, since in ended:
            if total <= self._max_bytes and self._now() - since < KEEP_S:
                return
            total -= work.size
            del self._known[key]
