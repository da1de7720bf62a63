"""A compact set of strings: keeps a 96-bit hash (12 bytes) per name.

Path: `sources.find_all` (uris listed), `extract` (finished units and inputs).

Among 100 million names the chance that any two share a hash is 6e-14. The hashes lie in 65,536 byte strings by their
first two bytes; a lookup scans one of these: 3 kB at 20 million names.
"""

from collections.abc import Iterable
from hashlib import blake2b

_WIDTH = 10  # stored bytes of a hash; two more select its bucket


class CompactSet:
    """A set of names with `add`, `in` and `len` only."""

    def __init__(self, names: Iterable[str | bytes] = ()) -> None:
        self._buckets: dict[bytes, bytearray] = {}
        self._count = 0
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: str | bytes) -> bool:
        digest = _digest(name)
        return _has(self._buckets.get(digest[:2], b""), digest[2:])

    def add(self, name: str | bytes) -> bool:
        """Add a name; False if it was in the set."""
        digest = _digest(name)
        bucket = self._buckets.setdefault(digest[:2], bytearray())
        if _has(bucket, digest[2:]):
            return False
        bucket += digest[2:]
        self._count += 1
        return True


def _digest(name: str | bytes) -> bytes:
    return blake2b(name.encode() if isinstance(name, str) else name, digest_size=_WIDTH + 2).digest()


def _has(bucket: bytes | bytearray, digest: bytes) -> bool:
    at = bucket.find(digest)
    while at >= 0 and at % _WIDTH:  # a match across two neighbours
        at = bucket.find(digest, at + 1)
    return at >= 0
