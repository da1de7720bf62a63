"""Identities of a dataset: the table OUT/identities/, joined to the rows of faces/ by input and track.

Path: OUT/identities/*.parquet -> `Identities` -> the column `identity` of `Faces`.

In memory is a hash of 64 bits per track and the number of its person: 12 bytes, and the names once. Among ten million
tracks the chance that any two share a hash is 3e-6.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from rigface.storage.store import Store

FOLDER = "identities"


class Identities:
    """Name of the person of each track."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        """`tables` have the columns uri, track and identity; a track may come again, its first person counts."""
        keys, codes, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)], dict[str, int]()
        for table in tables:
            table = table.filter(table["identity"].is_valid())
            names = table["identity"].combine_chunks().dictionary_encode()
            code = np.array([numbers.setdefault(name, len(numbers)) for name in names.dictionary.to_pylist()], np.int32)
            key, first = np.unique(track_keys(table["uri"], table["track"].to_numpy()), return_index=True)
            keys.append(key)
            codes.append(code[names.indices.to_numpy()][first])
        self._keys, first = np.unique(np.concatenate(keys), return_index=True)
        self._codes = np.concatenate(codes)[first]
        self.names = pa.array(list(numbers), pa.string())

    @staticmethod
    def load(store: Store) -> Identities:
        """The identities of a dataset; none if they were not computed."""
        columns = ["uri", "track", "identity"]
        return Identities(store.table(path, columns) for path in sorted(store.paths(FOLDER, ".parquet")))

    def __len__(self) -> int:
        """Number of tracks that have an identity."""
        return len(self._keys)

    def of(self, uris: pa.Array | pa.ChunkedArray, tracks: np.ndarray) -> pa.Array:
        """(N,) strings: the person of each (uri, track), null where there is none."""
        if not len(self):
            return pa.nulls(len(tracks), pa.string())
        wanted = track_keys(uris, tracks)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self) - 1)
        return self.names.take(pa.array(self._codes[at], mask=self._keys[at] != wanted))


def track_keys(uris: pa.Array | pa.ChunkedArray, tracks: np.ndarray) -> np.ndarray:
    """(N,) uint64, a hash of each (uri, track)."""
    if isinstance(uris, pa.ChunkedArray):
        uris = uris.combine_chunks()
    encoded = uris.dictionary_encode()
    hashes = np.array([uri_key(uri) for uri in encoded.dictionary.to_pylist()], np.uint64)
    own = hashes[encoded.indices.to_numpy()] if len(hashes) else hashes
    return own ^ (np.asarray(tracks).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)


def uri_key(uri: str) -> int:
    """A hash of 64 bits."""
    return int.from_bytes(blake2b(uri.encode(), digest_size=8).digest(), "little")
