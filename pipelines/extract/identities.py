"""Identities across inputs: cluster the tracks' identity vectors and write the column `identity`.

Path: identity_vector of every part -> a mean per track -> `cluster_identities` -> OUT/.rigface/identities.npz -> the
parts whose column differs, written again, whole.

The state is written before any part, so a killed pass continues with the same result. Known people are passed to the
next pass: they take in new tracks and keep their names. Two tracks in one frame are never one person.

One process holds the sum of each track's vectors, and compares all new tracks with all, once: memory grows with the
tracks, time with their square (docs/scaling.md).
"""

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
from pipelines.inputs.compact_set import CompactSet
from rigface.face.identity.clustering import IdentityClusters
from rigface.face.identity.dlib_embedding import cluster_identities, cluster_threshold
from rigface.storage.store import IDENTITIES, Store
from rigface.types import DLIB_WIDTH

READ_THREADS = 16
REWRITE_THREADS = 4
MAX_LOCAL_PARTS = 256  # parts to rewrite; fewer are done before Ray's workers have started

Key = tuple[str, int]  # uri, track
Sum = tuple[np.ndarray, int]  # of vectors, and how many


@dataclass(frozen=True)
class IdentityReport:
    """Counts of a clustering pass."""

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
    """Tracks of one part, as clustering needs them."""

    path: str
    uri: str
    faces: dict[int, int] = field(default_factory=dict)  # track -> rows
    vectors: dict[int, Sum] = field(default_factory=dict)
    together: set[tuple[int, int]] = field(default_factory=set)  # pairs of tracks in one frame
    names: dict[int, set[str | None]] = field(default_factory=dict)  # track -> present values of the column


def identify(store: Store, threshold: float | None = None) -> IdentityReport:
    """Give every track that has an identity vector the name of a person.

    Inputs without a row in OUT/inputs are left out: the numbers of their tracks will change when they are finished. The
    threshold is the maximum root mean square distance within a person, by default that of the network; another one than
    in the last pass clusters everything anew, and names change.
    """
    paths = sorted(p for p in store.paths("faces", ".parquet") if not p.endswith("/schema.parquet"))
    finished = CompactSet(
        u for p in store.paths("inputs", ".parquet") for u in store.table(p, ["uri"])["uri"].to_pylist()
    )
    with ThreadPoolExecutor(READ_THREADS) as pool:
        parts = [part for part in pool.map(lambda path: _read(store, path), paths) if part.uri in finished]
    vectors, faces = _tracks(parts)
    width = len(next(iter(vectors.values()))[0]) if vectors else DLIB_WIDTH
    threshold = threshold or cluster_threshold(width)
    known, people = load_state(store, threshold)
    known = {key: label for key, label in known.items() if key[0] in finished}
    new = sorted(vectors.keys() - known.keys())
    if new:
        at = {key: i for i, key in enumerate(new)}
        pairs = {(p.uri, a, b) for p in parts for a, b in p.together}
        apart = [(at[u, a], at[u, b]) for u, a, b in sorted(pairs) if (u, a) in at and (u, b) in at]
        labels, people = cluster_identities(
            np.stack([total / count for total, count in (vectors[key] for key in new)]),
            np.array([faces[key] for key in new], np.float64),
            people,
            threshold=threshold,
            apart=apart,
        )
        known |= dict(zip(new, labels.tolist()))
        save_state(store, threshold, known, people)
    wanted = [
        (p, {track: person_name(known[p.uri, track]) for track in p.faces if (p.uri, track) in known}) for p in parts
    ]
    stale = [(p.path, names) for p, names in wanted if any(p.names[t] != {names.get(t)} for t in p.faces)]
    _run_all(rewrite, [(store, path, names) for path, names in stale])
    return IdentityReport(
        threshold=threshold,
        people=len({known[key] for key in vectors}),
        tracks=len(vectors),
        unknown=len(faces) - len(vectors),
        inputs=len({uri for uri, _ in vectors}),
        rewritten=len(stale),
    )


def person_name(label: int) -> str:
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
    with_vector = table.filter(table["identity_vector"].is_valid())
    for track, vector in zip(with_vector["track"].to_pylist(), with_vector["identity_vector"].to_pylist()):
        total, count = part.vectors.get(track, (0.0, 0))
        part.vectors[track] = total + np.array(vector), count + 1
    return part


def _tracks(parts: Iterable[_Part]) -> tuple[dict[Key, Sum], dict[Key, int]]:
    """Vectors and number of faces of every track; a track may span several parts."""
    vectors: dict[Key, Sum] = {}
    faces: dict[Key, int] = {}
    for part in parts:
        for track, count in part.faces.items():
            faces[part.uri, track] = faces.get((part.uri, track), 0) + count
        for track, vector in part.vectors.items():
            total, count = vectors.get((part.uri, track), (0.0, 0))
            vectors[part.uri, track] = total + vector[0], count + vector[1]
    return vectors, faces


def rewrite(store: Store, path: str, names: dict[int, str]) -> None:
    """Write a part again with these identities, by track."""
    part = store.table(path)
    column = pa.array([names.get(track) for track in part["track"].to_pylist()], pa.string())
    part = part.set_column(part.schema.get_field_index("identity"), part.schema.field("identity"), column)
    store.publish(path, parquet(part))


def _run_all(task: Callable[..., None], jobs: list[tuple[Any, ...]]) -> None:
    """Run a task with each tuple of arguments: on Ray if connected and worth its start, else on threads."""
    if len(jobs) > MAX_LOCAL_PARTS and "ray" in sys.modules and sys.modules["ray"].is_initialized():
        import ray

        remote = ray.remote(num_cpus=0.5)(task)
        ray.get([remote.remote(*job) for job in jobs])
        return
    with ThreadPoolExecutor(REWRITE_THREADS) as pool:
        list(pool.map(lambda job: task(*job), jobs))


def load_state(store: Store, threshold: float) -> tuple[dict[Key, int], IdentityClusters | None]:
    """Labels and people of the last pass; nothing if its threshold was another."""
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


def save_state(store: Store, threshold: float, known: dict[Key, int], people: IdentityClusters) -> None:
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


def rename_inputs(store: Store, renamed: Callable[[str], str]) -> None:
    """Give the inputs of the remembered tracks other uris."""
    try:
        state = dict(np.load(io.BytesIO(store.read(IDENTITIES)), allow_pickle=False))
    except FileNotFoundError:
        return
    uris = [renamed(uri) for uri in json.loads(bytes(state["uris"]))]
    sink = io.BytesIO()
    np.savez_compressed(sink, **state | {"uris": np.frombuffer(json.dumps(uris).encode(), np.uint8)})
    store.publish(IDENTITIES, sink.getvalue())


def forget_inputs(store: Store, uris: set[str]) -> None:
    """Drop the tracks of inputs that are removed or numbered anew; the people stay."""
    try:
        threshold = float(np.load(io.BytesIO(store.read(IDENTITIES)), allow_pickle=False)["threshold"])
    except FileNotFoundError:
        return
    known, people = load_state(store, threshold)
    kept = {key: label for key, label in known.items() if key[0] not in uris}
    if people is not None and len(kept) < len(known):
        save_state(store, threshold, kept, people)
