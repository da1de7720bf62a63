"""Which of very many names have been seen: 12 bytes each, where a set of strings takes a hundred and more.

Path: `sources.find_all` (uris given out), `extract` (units and inputs that are done).

Kept is a 96-bit hash: among 100 million names the chance that any two share one is 6e-14. The hashes lie in 65,536 byte
strings by their first two bytes, and are looked for there from the start: 3 kB to search at 20 million names.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

_WIDTH = 10  # bytes of a hash that are kept; two more are its place


class CompactSet:
    """A set of names that can be added to and asked, and no more.

    Args:
        names: to begin with.
    """

    def __init__(self, names: Iterable[str | bytes] = ()) -> None:
        self._places: dict[bytes, bytearray] = {}
        self._count = 0
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: str | bytes) -> bool:
        mark = _mark(name)
        return _has(self._places.get(mark[:2], b""), mark[2:])

    def add(self, name: str | bytes) -> bool:
        """Add a name; False where it was there."""
        mark = _mark(name)
        place = self._places.setdefault(mark[:2], bytearray())
        if _has(place, mark[2:]):
            return False
        place += mark[2:]
        self._count += 1
        return True


def _mark(name: str | bytes) -> bytes:
    return blake2b(name.encode() if isinstance(name, str) else name, digest_size=_WIDTH + 2).digest()


def _has(place: bytes | bytearray, mark: bytes) -> bool:
    at = place.find(mark)
    while at >= 0 and at % _WIDTH:  # found across two neighbours
        at = place.find(mark, at + 1)
    return at >= 0
