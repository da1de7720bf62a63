"""Content hashes, and a cache of the latest values by key."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from serve.telemetry.metrics import CACHE_LOOKUPS, record


def picture_id(data: bytes) -> str:
    """The name of a picture: the hash of its bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class LruCache:
    """Least-recently-used cache with a limit on the total size. Safe for threads; values must not change.

    `name` labels its lookups in the metrics.
    """

    def __init__(self, limit: int, size_of: Callable[[Any], int], name: str) -> None:
        self._limit, self._size_of, self._name = limit, size_of, name
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._total, self._lock = 0, threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The value, or None."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
        record(CACHE_LOOKUPS, cache=self._name, result="miss" if value is None else "hit")
        return value

    def put(self, key: Hashable, value: Any) -> None:
        """Add a value and drop the oldest beyond the limit. A value larger than the limit is not kept."""
        size = self._size_of(value)
        with self._lock:
            if key in self._values or size > self._limit:
                return
            self._values[key] = value
            self._total += size
            while self._total > self._limit:
                self._total -= self._size_of(self._values.popitem(last=False)[1])
