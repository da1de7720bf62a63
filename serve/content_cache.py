"""Content by its hash, and the latest of it kept: what the door, the eye and the painter cache with."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from serve.telemetry.metrics import CACHE_LOOKUPS, tell


def picture_id(data: bytes) -> str:
    """The name of a picture: the hash of its bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class LruCache:
    """The latest values by key, up to a total size. One lock; values are never changed.

    Args:
        name: what lookups are counted under.
    """

    def __init__(self, limit: int, size_of: Callable[[Any], int], name: str) -> None:
        self._limit, self._size_of, self._name = limit, size_of, name
        self._values: OrderedDict[Any, Any] = OrderedDict()
        self._total, self._lock = 0, threading.Lock()

    def get(self, key: Any) -> Any:
        """The value, now the latest; None if it is not there."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
        tell(CACHE_LOOKUPS, cache=self._name, result="miss" if value is None else "hit")
        return value

    def put(self, key: Any, value: Any) -> None:
        """Keep it; the oldest go until the rest fits. One that is too large by itself is not kept."""
        size = self._size_of(value)
        with self._lock:
            if key in self._values or size > self._limit:
                return
            self._values[key] = value
            self._total += size
            while self._total > self._limit:
                self._total -= self._size_of(self._values.popitem(last=False)[1])
