"""Readiness of the workers, for /readyz.

Path: `GET /readyz` -> `Readiness` -> `ready` of the workers and the job queue, concurrently. Cached for `KEPT_S`,
because the route needs no key.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from serve.protocols import Service

LIMIT_S, KEPT_S = 2.0, 1.0


class Readiness:
    """Cached readiness of all parts, by name."""

    def __init__(self, parts: Callable[[], Mapping[str, Service]]) -> None:
        self._parts, self._asked = parts, 0.0
        self._task: asyncio.Task[dict[str, str]] | None = None

    async def __call__(self) -> dict[str, str]:
        """Per part: "ok", or the name of the exception."""
        if self._task is None or (self._task.done() and time.monotonic() > self._asked + KEPT_S):
            self._asked, self._task = time.monotonic(), asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._task)

    async def _ask(self) -> dict[str, str]:
        parts = self._parts()
        checks = (asyncio.wait_for(part.ready(), LIMIT_S) for part in parts.values())
        results = await asyncio.gather(*checks, return_exceptions=True)
        names = [type(result).__name__ if isinstance(result, Exception) else "ok" for result in results]
        return dict(zip(parts, names))
