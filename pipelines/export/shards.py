"""Shards of whole rows: the unit of work of the formats `huggingface` and `webdataset`.

Path: objects of faces/ -> `plan_shards` -> `ShardUnit` -> DEST/<folder>/<split>-<number><suffix>

A shard holds the rows of neighbouring objects, some `SHARD_FACES`; its people are split into train and test by name, so
both splits of a shard together are its rows. The object of `train` comes last, even if it is empty: with it the
shard is done.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.cluster.unit_job import Unit
from pipelines.examples.frame_index import unnamed
from pipelines.examples.split import split_of
from pipelines.export.config import ExportConfig
from rigface.dataset.faces import Faces
from rigface.storage import lock
from rigface.storage.store import Store

SHARD_FACES = 2_000  # some 100 MB of crops and masks
READERS = 16
SPLITS = ("test", "train")  # in the order of writing

Encode = Callable[[pa.Table], bytes | pa.Buffer]


@dataclass(frozen=True)
class Shard:
    """Neighbouring objects of faces/."""

    number: int
    parts: tuple[str, ...]
    rows: int  # read of them; the rest is beyond the limit

    def path(self, folder: str, split: str, suffix: str) -> str:
        return f"{folder}/{split}-{self.number:06}{suffix}"


def plan_shards(faces: Faces, limit: int) -> list[Unit[Shard]]:
    """The shards of a dataset, or of its first rows."""
    with ThreadPoolExecutor(READERS) as pool:
        counts = list(pool.map(lambda part: _rows(faces.store, part), faces.parts))
    shards: list[Unit[Shard]] = []
    group: list[str] = []
    rows, left = 0, limit or sum(counts)
    for part, count in zip(faces.parts, counts):
        if not left:
            break
        group.append(part)
        rows, left = rows + min(count, left), left - min(count, left)
        if rows >= SHARD_FACES:
            shards.append(_unit(len(shards), group, rows))
            group, rows = [], 0
    return [*shards, _unit(len(shards), group, rows)] if group else shards


def _unit(number: int, parts: Iterable[str], rows: int) -> Unit[Shard]:
    return Unit(f"{number:06}", Shard(number, tuple(parts), rows))


def _rows(store: Store, part: str) -> int:
    with store.open(part) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def finished(store: Store, folder: str, suffix: str) -> set[str]:
    """Numbers of the shards that are done."""
    names = store.names(folder, suffix)
    return {name.removeprefix("train-") for name in names if name.startswith("train-")}


class ShardUnit:
    """Writes shards. One per actor."""

    def __init__(self, config: ExportConfig, folder: str, suffix: str, make_encode: Callable[[Faces], Encode]) -> None:
        self._config, self._folder, self._suffix = config, folder, suffix
        self._faces, self._store = Faces(config.faces), lock.follow(Store(config.dest))
        self._encode = make_encode(self._faces)

    def __call__(self, unit: str, shard: Shard) -> dict[str, int]:
        rows = pa.concat_tables([self._faces.table(part) for part in shard.parts]).slice(0, shard.rows)
        rows = rows.combine_chunks()
        known = pc.fill_null(rows["confidence"], -1.0).to_numpy()
        good = (np.array(rows["status"].to_pylist()) == "ok") & (known >= self._config.min_confidence)
        people = [i or unnamed(u, t) for i, u, t in zip(*(rows[n].to_pylist() for n in ("identity", "uri", "track")))]
        split = np.array([split_of(person, self._config.held_out_fraction) for person in people])
        if not self._config.identity_vectors:
            rows = rows.drop_columns(["identity_vector"])
        for name in SPLITS:
            own = rows.filter(pa.array(good & (split == name)))
            if len(own) or name == "train":
                self._store.publish(shard.path(self._folder, name, self._suffix), self._encode(own))
        return {"shards": 1, "faces": int(good.sum())}
