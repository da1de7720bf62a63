"""Who is who across inputs: cluster the tracks' identity vectors, write the column `identity`.

Path: identity_vector of every part -> a mean per track -> `identity.cluster` -> OUT/.rigface/identities.npz -> the parts whose
column differs, written again, whole.

The record is written before any part, so a pass that is killed goes on with the same answer. Known people are handed to the
next pass: they take in new tracks and keep their names. Two tracks seen in one frame are never one person.

One process holds the sum of each track's vectors, and compares all that are new with all, once: memory grows with the tracks, time
with their square (docs/scaling.md).
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.extract.layout import parquet
from rigface.face.identity.clustering import IdentityClusters
from rigface.face.identity.dlib_embedding import cluster_identities, cluster_threshold
from rigface.storage.store import IDENTITIES, Store
from rigface.types import DLIB_WIDTH

READERS = 16
REWRITERS = 4
MANY = 256  # parts to rewrite; below, it is done before Ray's workers have started

Key = tuple[str, int]  # uri, track
Sum = tuple[np.ndarray, int]  # of vectors, and how many


@dataclass(frozen=True)
class Report:
    """What a pass found and did."""

    threshold: float
    people: int
    tracks: int
    unknown: int  # tracks without an identity vector
    inputs: int
    rewritten: int

    def __str__(self) -> str:
        left = f", {self.unknown:,} tracks without a vector" if self.unknown else ""
        return (
            f"{self.people:,} people in {self.tracks:,} tracks of {self.inputs:,} inputs{left} "
            f"(threshold {self.threshold:g}); {self.rewritten:,} parts rewritten"
        )


@dataclass
class _Part:
    """What clustering needs to know of one part."""

    path: str
    uri: str
    faces: dict[int, int] = field(default_factory=dict)  # track -> rows
    vectors: dict[int, Sum] = field(default_factory=dict)
    together: set[tuple[int, int]] = field(default_factory=set)  # tracks that one frame shows
    names: dict[int, set[str | None]] = field(default_factory=dict)  # track -> what the column says now


def identify(store: Store, threshold: float | None = None) -> Report:
    """Give every track that has an identity vector the name of a person.

    Args:
        threshold: largest root mean square distance within a person; None: the usual one of the network whose vectors they
            are. Another one than last time clusters everything anew, and names change.
    """
    paths = sorted(p for p in store.paths("faces", ".parquet") if not p.endswith("/schema.parquet"))
    with ThreadPoolExecutor(READERS) as pool:
        seen = list(pool.map(lambda path: _read(store, path), paths))
    vectors, faces = _tracks(seen)
    width = len(next(iter(vectors.values()))[0]) if vectors else DLIB_WIDTH
    threshold = threshold or cluster_threshold(width)
    known, people = load(store, threshold)
    fresh = sorted(vectors.keys() - known.keys())
    if fresh:
        at = {key: i for i, key in enumerate(fresh)}
        apart = {(p.uri, a, b) for p in seen for a, b in p.together}
        foes = [(at[u, a], at[u, b]) for u, a, b in sorted(apart) if (u, a) in at and (u, b) in at]
        labels, people = cluster_identities(
            np.stack([total / count for total, count in (vectors[key] for key in fresh)]),
            np.array([faces[key] for key in fresh], np.float64),
            people,
            threshold=threshold,
            apart=foes,
        )
        known |= dict(zip(fresh, labels.tolist()))
        save(store, threshold, known, people)
    wanted = [(p, {track: name(known[p.uri, track]) for track in p.faces if (p.uri, track) in known}) for p in seen]
    stale = [(p.path, names) for p, names in wanted if any(p.names[t] != {names.get(t)} for t in p.faces)]
    _everywhere(rewrite, [(store, path, names) for path, names in stale])
    return Report(
        threshold=threshold,
        people=len({known[key] for key in vectors}),
        tracks=len(vectors),
        unknown=len(faces) - len(vectors),
        inputs=len({uri for uri, _ in vectors}),
        rewritten=len(stale),
    )


def name(label: int) -> str:
    """A person's name in the column `identity`."""
    return f"p{label:06}"


def _read(store: Store, path: str) -> _Part:
    table = store.table(path, ["uri", "frame_index", "track", "identity", "identity_vector"])
    part = _Part(path, table["uri"][0].as_py())
    columns = (table[n].to_pylist() for n in ("frame_index", "track", "identity"))
    frames: dict[int, set[int]] = {}
    for frame, track, now in zip(*columns):
        part.faces[track] = part.faces.get(track, 0) + 1
        part.names.setdefault(track, set()).add(now)
        part.together |= {(min(track, other), max(track, other)) for other in frames.setdefault(frame, set())}
        frames[frame].add(track)
    have = table.filter(table["identity_vector"].is_valid())
    for track, vector in zip(have["track"].to_pylist(), have["identity_vector"].to_pylist()):
        part.vectors[track] = _plus(part.vectors.get(track), (np.array(vector), 1))
    return part


def _plus(one: Sum | None, other: Sum) -> Sum:
    return other if one is None else (one[0] + other[0], one[1] + other[1])


def _tracks(seen: Iterable[_Part]) -> tuple[dict[Key, Sum], dict[Key, int]]:
    """Vectors and number of faces of every track; a track may span several parts."""
    vectors: dict[Key, Sum] = {}
    faces: dict[Key, int] = {}
    for part in seen:
        for track, count in part.faces.items():
            faces[part.uri, track] = faces.get((part.uri, track), 0) + count
        for track, found in part.vectors.items():
            vectors[part.uri, track] = _plus(vectors.get((part.uri, track)), found)
    return vectors, faces


def rewrite(store: Store, path: str, names: dict[int, str]) -> None:
    """Write a part again with these identities, by track."""
    part = store.table(path)
    column = pa.array([names.get(track) for track in part["track"].to_pylist()], pa.string())
    part = part.set_column(part.schema.get_field_index("identity"), part.schema.field("identity"), column)
    store.publish(path, parquet(part))


def _everywhere(do: Callable[..., None], jobs: list[tuple[Any, ...]]) -> None:
    """Do the jobs: on the Ray cluster where one is connected and worth its start, else on threads here."""
    if len(jobs) > MANY and "ray" in sys.modules and sys.modules["ray"].is_initialized():
        import ray

        task = ray.remote(num_cpus=0.5)(do)
        ray.get([task.remote(*job) for job in jobs])
        return
    with ThreadPoolExecutor(REWRITERS) as pool:
        list(pool.map(lambda job: do(*job), jobs))


def load(store: Store, threshold: float) -> tuple[dict[Key, int], IdentityClusters | None]:
    """What is known from the last pass; nothing if it had another threshold."""
    try:
        data = np.load(io.BytesIO(store.read(IDENTITIES)), allow_pickle=False)
    except FileNotFoundError:
        return {}, None
    if float(data["threshold"]) != threshold:
        return {}, None
    uris = json.loads(bytes(data["uris"]))
    keys = zip((uris[i] for i in data["uri"].tolist()), data["track"].tolist())
    people = IdentityClusters(*(data[n] for n in ("ids", "centroid", "weight", "scatter")))
    return dict(zip(keys, data["label"].tolist())), people


def save(store: Store, threshold: float, known: dict[Key, int], people: IdentityClusters) -> None:
    """Keep it for the next pass."""
    uris = sorted({uri for uri, _ in known})
    at = {uri: i for i, uri in enumerate(uris)}
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        threshold=np.float64(threshold),
        uris=np.frombuffer(json.dumps(uris).encode(), np.uint8),
        uri=np.array([at[uri] for uri, _ in known], np.int64),
        track=np.array([track for _, track in known], np.int64),
        label=np.array(list(known.values()), np.int64),
        ids=people.ids,
        centroid=people.centroid,
        weight=people.weight,
        scatter=people.scatter,
    )
    store.publish(IDENTITIES, sink.getvalue())


def forget(store: Store, uris: set[str]) -> None:
    """Drop the tracks of inputs whose content has changed; the people stay."""
    try:
        threshold = float(np.load(io.BytesIO(store.read(IDENTITIES)), allow_pickle=False)["threshold"])
    except FileNotFoundError:
        return
    known, people = load(store, threshold)
    kept = {key: label for key, label in known.items() if key[0] not in uris}
    if people is not None and len(kept) < len(known):
        save(store, threshold, kept, people)
