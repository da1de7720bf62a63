"""How much is let in: bytes, pixels, time, requests by key. Every number has one place, here or in `Limits`.

Path: the first thing a request meets. Nothing is read beyond what is allowed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from serve.problems import Trouble

MAX_PIXELS = 40_000_000
CLIP_PIXELS = 3840 * 2160  # of a frame
BODY_GRACE_S, SLOWEST_BYTES_S = 15.0, 16 * 1024  # for a body to arrive
MAX_PART_FILES = 8  # a source, a target, one for each of five traits, and a clip


@dataclass(frozen=True)
class Limits:
    """What an operator may set.

    Args:
        body_bytes: of one request.
        edit_s: until an edit is given up. preview_s: likewise a preview or a reconstruction.
        in_flight: requests at work in one door at a time; beyond it callers are asked to come again.
        store_mb: of pictures that clients may name by hash, in one door.
        clip_bytes, clip_s, clip_frames, clip_pixels: of a clip, the last of one frame.
        job_s: until a job is given up. keep_s: how long a job that has ended is kept.
        jobs_waiting: in the queue. jobs_each: of one key among them. jobs_at_once: at work at a time.
        edits_at_once: of one job.
        links_s: for how long a caller may fetch a result from S3 itself, where jobs are there; 0: it comes through the door.
    """

    body_bytes: int = 32 * 2**20
    edit_s: float = 120.0
    preview_s: float = 20.0
    in_flight: int = 64
    store_mb: int = 256
    clip_bytes: int = 64 * 2**20
    clip_s: float = 120.0
    clip_frames: int = 7200
    clip_pixels: int = CLIP_PIXELS
    job_s: float = 7200.0
    keep_s: float = 7 * 86400.0
    jobs_waiting: int = 64
    jobs_each: int = 16
    jobs_at_once: int = 2
    edits_at_once: int = 4
    links_s: float = 0.0


class Bucket:
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
            raise Trouble("rate-limited", f"this key may make {rate:g} requests a second", (1 - left) / rate)
        while len(self._left) > 10_000:
            self._left.popitem(last=False)


class Turnstile:
    """At most so many at a time per name."""

    def __init__(self) -> None:
        self._inside: dict[str, int] = {}

    def enter(self, name: str, most: int, slug: str = "rate-limited") -> None:
        """Go in, or be told to come again."""
        if self._inside.get(name, 0) >= most:
            raise Trouble(slug, f"{most} requests are already at work", 1)
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
            raise Trouble(
                "too-slow", f"a body may take {BODY_GRACE_S:g} s, and a second more for each {SLOWEST_BYTES_S} bytes"
            ) from None
        got += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if got > most:
            raise Trouble("too-large", f"a request may have {most} bytes")
        return message

    return limited
