"""Limits of rate, concurrency and body size."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from serve.problems import ApiError

BODY_GRACE_S, SLOWEST_BYTES_S = 15.0, 16 * 1024  # for a body to arrive


class TokenBucket:
    """A token bucket per key: `rate` a second on average, `burst` at once. Buckets that are full are forgotten."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, rate: float, burst: float) -> None:
        """One token.

        Raises:
            Trouble: `rate-limited`, with the time until there is one.
        """
        now = self._now()
        left, then = self._left.pop(key, (burst, now))
        left = min(burst, left + (now - then) * rate)
        if left >= 1:
            self._left[key] = (left - 1, now)
        else:
            self._left[key] = (left, now)
            raise ApiError("rate-limited", f"this key may make {rate:g} requests a second", (1 - left) / rate)
        while len(self._left) > 10_000:
            self._left.popitem(last=False)


class ConcurrencyLimiter:
    """At most so many at a time per name."""

    def __init__(self) -> None:
        self._inside: dict[str, int] = {}

    def enter(self, name: str, most: int, slug: str = "rate-limited") -> None:
        """Go in, or be told to come again."""
        if self._inside.get(name, 0) >= most:
            raise ApiError(slug, f"{most} requests are already at work", 1)
        self._inside[name] = self._inside.get(name, 0) + 1

    def leave(self, name: str) -> None:
        """Come out."""
        left = self._inside.get(name, 0) - 1
        self._inside[name] = left
        if left <= 0:
            self._inside.pop(name, None)

    def inside(self, name: str) -> int:
        """How many are."""
        return self._inside.get(name, 0)


Message = dict[str, Any]


def bounded(receive: Callable[[], Awaitable[Message]], most: int) -> Callable[[], Awaitable[Message]]:
    """An ASGI `receive` that stops a body at `most` bytes, whatever its header said, and one that trickles in.

    Otherwise a few callers who send a byte a second would hold all places there are.
    """
    got, whole, began = 0, False, time.monotonic()

    async def limited() -> Message:
        nonlocal got, whole
        if whole:  # what comes after a body is that the caller leaves, whenever
            return await receive()
        try:
            async with asyncio.timeout(max(0.0, began + BODY_GRACE_S + got / SLOWEST_BYTES_S - time.monotonic())):
                message = await receive()
        except TimeoutError:
            raise ApiError(
                "too-slow", f"a body may take {BODY_GRACE_S:g} s, and a second more for each {SLOWEST_BYTES_S} bytes"
            ) from None
        got += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if got > most:
            raise ApiError("too-large", f"a request may have {most} bytes")
        return message

    return limited
