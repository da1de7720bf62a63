"""Limits of rate, concurrency and body size."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from serve.problems import ApiError
from serve.security.api_keys import Key

BODY_GRACE_S, MIN_BYTES_PER_S = 15.0, 128 * 1024  # for a body to arrive


class KeyLimiter:
    """Limits of each key: a token bucket (`rate` a second on average, `burst` at once), and concurrent requests."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, float]] = {}  # left, and when
        self._running: Counter[str] = Counter()

    @contextmanager
    def admit(self, key: Key) -> Iterator[None]:
        """Count a request until the context ends, or refuse it as `rate-limited` until the next token."""
        now = time.monotonic()
        left, then = self._tokens.get(key.id, (key.burst, now))
        left = min(key.burst, left + (now - then) * key.rate)
        self._tokens[key.id] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            reason = f"limit of this key: {key.rate:g} requests a second"
            raise ApiError("rate-limited", reason, (1 - left) / key.rate)
        if self._running[key.id] >= key.max_concurrent:
            raise ApiError("rate-limited", f"{key.max_concurrent} requests are already in progress", 1)
        self._running[key.id] += 1
        try:
            yield
        finally:
            self._running[key.id] -= 1


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
