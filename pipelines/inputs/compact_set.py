"""A compact set of strings, and a compact map of strings to numbers: a 96-bit hash (12 bytes) per name.

Path: `sources.find_all` (uris listed), `extract` (finished units and inputs), `PlanStore` (the part of each plan).

Among 100 million names the chance that any two share a hash is 6e-14. The hashes lie in 65,536 byte strings by their
first two bytes; a lookup scans one of these: 3 kB at 20 million names.
"""

from collections.abc import Iterable
from hashlib import blake2b

_HASH = 10  # stored bytes of a hash; two more select its bucket
_NUMBER = 4  # bytes of a number


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
        return _find(self._buckets.get(digest[:2], b""), digest[2:], _HASH) >= 0

    def add(self, name: str | bytes) -> bool:
        """Add a name; False if it was in the set."""
        digest = _digest(name)
        bucket = self._buckets.setdefault(digest[:2], bytearray())
        if _find(bucket, digest[2:], _HASH) >= 0:
            return False
        bucket += digest[2:]
        self._count += 1
        return True


class CompactMap:
    """A map of names to numbers below 2**32, with `get` and assignment only; 16 bytes per name."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, bytearray] = {}

    def get(self, name: str) -> int | None:
        """The number of a name; None if it has none."""
        digest = _digest(name)
        bucket = self._buckets.get(digest[:2], b"")
        at = _find(bucket, digest[2:], _HASH + _NUMBER) + _HASH
        return None if at < _HASH else int.from_bytes(bucket[at : at + _NUMBER])

    def __setitem__(self, name: str, number: int) -> None:
        digest = _digest(name)
        bucket = self._buckets.setdefault(digest[:2], bytearray())
        at = _find(bucket, digest[2:], _HASH + _NUMBER)
        if at < 0:
            bucket += digest[2:] + number.to_bytes(_NUMBER)
        else:
            bucket[at + _HASH : at + _HASH + _NUMBER] = number.to_bytes(_NUMBER)


def _digest(name: str | bytes) -> bytes:
    return blake2b(name.encode() if isinstance(name, str) else name, digest_size=_HASH + 2).digest()


def _find(bucket: bytes | bytearray, digest: bytes, width: int) -> int:
    """The place of a hash in a bucket whose entries have this width and begin with theirs; -1 if it is not there."""
    at = bucket.find(digest)
    while at >= 0 and at % width:  # a match across two neighbours
        at = bucket.find(digest, at + 1)
    return at
