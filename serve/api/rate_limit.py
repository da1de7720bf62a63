"""Limits of rate, concurrency and body size."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from serve.problems import ApiError

BODY_GRACE_S, MIN_BYTES_PER_S = 15.0, 128 * 1024  # for a body to arrive


class TokenBucket:
    """A token bucket per key: `rate` a second on average, `burst` at once."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: str, rate: float, burst: float) -> None:
        """Take one token.

        Raises:
            ApiError: `rate-limited`, with the time until the next token.
        """
        now = time.monotonic()
        left, then = self._left.get(key, (burst, now))
        left = min(burst, left + (now - then) * rate)
        self._left[key] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            raise ApiError("rate-limited", f"limit of this key: {rate:g} requests a second", (1 - left) / rate)


class ConcurrencyLimiter:
    """Counts concurrent requests per key, up to a maximum."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()

    @contextmanager
    def admit(self, key: str, max_running: int) -> Iterator[None]:
        """Count a request until the context ends.

        Raises:
            ApiError: `rate-limited`, if `max_running` requests are running.
        """
        if self._running[key] >= max_running:
            raise ApiError("rate-limited", f"{max_running} requests are already in progress", 1)
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1


def bounded(receive: Receive, max_bytes: int) -> Receive:
    """An ASGI `receive` that refuses bodies above `max_bytes`, whatever their header says, and bodies that arrive too
    slowly.

    Without the second, a few callers that send a byte a second would use up all concurrent requests.
    """
    got, complete, began = 0, False, time.monotonic()

    async def limited() -> Message:
        nonlocal got, complete
        if complete:  # after the body comes only a disconnect, at any time
            return await receive()
        try:
            async with asyncio.timeout(max(0.0, began + BODY_GRACE_S + got / MIN_BYTES_PER_S - time.monotonic())):
                message = await receive()
        except TimeoutError:
            limit = f"the limit is {BODY_GRACE_S:g} s plus a second for each {MIN_BYTES_PER_S} bytes"
            raise ApiError("too-slow", limit) from None
        got += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if got > max_bytes:
            raise ApiError("too-large", f"the limit is {max_bytes} bytes")
        return message

    return limited
