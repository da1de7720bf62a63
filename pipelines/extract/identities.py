"""Identities across inputs: cluster the tracks' identity vectors into OUT/identities/, one row per track.

Path: tracks of the finished inputs that the table does not hold -> a mean direction per track -> `cluster_vectors`,
against the people who are there -> rows added to OUT/identities/. Nothing of faces/ is written.

The table is the whole state: the people are its rows, grouped. A pass only adds objects, each with whole inputs, so a
killed pass is continued by the next. A person is named by a hash of their first track, in the order of uris and tracks,
of the pass that found them, and keeps that name: two runs on the same inputs name people alike. Two tracks in one frame
are never one person.

Memory grows with the tracks (some 3 kB each), time with the new ones times all people (docs/scaling.md).
"""

import itertools
import json
from base64 import b32encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import run_info
from pipelines.extract.layout import plain_parquet, publish_by_hash
from pipelines.inputs.compact_set import CompactSet
from rigface import schema
from rigface.dataset.faces import Faces
from rigface.dataset.identities import FOLDER, Identities
from rigface.errors import PlanError
from rigface.face.identity.clustering import IdentityClusters, cluster_vectors, match_clusters
from rigface.face.identity.dlib_embedding import cluster_threshold, unit_vectors
from rigface.storage.store import INTERNAL, Store
from rigface.types import DLIB_WIDTH

ROWS = 100_000  # of an object: 50 MB
RENAMED = f"{INTERNAL}/renamed.json"  # people to be renamed, from before the first to after the last object is written
THRESHOLD = b"rigface.threshold"


@dataclass(frozen=True)
class IdentityReport:
    """Counts of the table after a pass."""

    threshold: float
    people: int
    tracks: int  # with a person
    unknown: int  # tracks without an identity vector
    inputs: int
    added: int  # tracks, with or without a person

    def __str__(self) -> str:
        left = f", {self.unknown:,} tracks without a vector" if self.unknown else ""
        return (
            f"{self.people:,} people in {self.tracks:,} tracks of {self.inputs:,} inputs{left} "
            f"(threshold {self.threshold:g}); {self.added:,} tracks added"
        )


@dataclass(frozen=True)
class _Tracks:
    """The tracks of some inputs, in the order of their uris and numbers."""

    uri: list[str]
    track: np.ndarray  # (N,) int32
    faces: np.ndarray  # (N,) int32
    mean: np.ndarray  # (N, D) float32 mean identity vector, NaN where there is none
    given: list[str | None]  # the names they have already
    apart: list[tuple[int, int]]  # pairs that one frame shows together


@dataclass(frozen=True)
class _People:
    """Everyone in a table, by name."""

    names: list[str]
    clusters: IdentityClusters  # ids are positions in `names`


def identify(store: Store, threshold: float | None = None, names: Store | None = None) -> IdentityReport:
    """Give every track of the finished inputs a row in OUT/identities/, and the name of a person if it has a vector.

    Tracks that have a name already, in the dataset `names` or in a column of faces/ as of before, keep it. The
    threshold is the maximum root mean square distance within a person, by default that of the last pass, else that of
    the network; another one than in the last pass clusters everything anew.
    """
    _end_renaming(store)
    earlier = _threshold_of(store)
    if threshold is not None and earlier not in (None, threshold):
        store.delete_folder(FOLDER)
        earlier = None
    known = CompactSet(uri for table in _tables(store, ["uri"]) for uri in table["uri"].to_pylist())
    new = CompactSet()
    for path in store.paths("inputs", ".parquet"):
        table = store.table(path, ["uri", "tracks"])
        for uri in table.filter(pc.greater(table["tracks"], 0))["uri"].to_pylist():
            if uri not in known:
                new.add(uri)
    added = 0
    if len(new) and "identity_vector" in Faces(store).schema.names:
        tracks = _read(Faces(store), new.__contains__, Faces(names or store).identities)
        threshold = threshold or earlier or cluster_threshold(tracks.mean.shape[1])
        added = len(tracks.uri)
        _add(store, tracks, threshold)
    return _report(store, threshold or earlier or cluster_threshold(DLIB_WIDTH), added)


def join(stores: Sequence[Store]) -> list[IdentityReport]:
    """Give the people of several datasets common names, those of the first dataset that has them.

    Within a dataset people stay as they are: one of a later dataset takes the name of at most one of the earlier ones.
    PlanError if the networks or thresholds of the datasets differ.
    """
    reports = [identify(store) for store in stores]
    kinds = {(Faces(store).detector.identity, report.threshold) for store, report in zip(stores, reports)}
    if len(kinds) > 1:
        raise PlanError(f"identities of different networks or thresholds cannot be joined: {sorted(kinds)}")
    threshold = reports[0].threshold
    everyone = _people(stores[0])
    for store in stores[1:]:
        own = _people(store)
        shared = set(everyone.names) & set(own.names)
        left, right = (np.flatnonzero([n not in shared for n in who.names]) for who in (everyone, own))
        pairs = match_clusters(_some(everyone, left), _some(own, right), threshold=threshold)
        renamed = {own.names[right[b]]: everyone.names[left[a]] for a, b in pairs.tolist()}
        if renamed:
            store.publish(RENAMED, json.dumps(renamed).encode())
            _end_renaming(store)
        everyone = _united(everyone, _People([renamed.get(name, name) for name in own.names], own.clusters))
    return [_report(store, threshold, report.added) for store, report in zip(stores, reports)]


def _tables(store: Store, columns: list[str]) -> list[pa.Table]:
    return [store.table(path, columns) for path in sorted(store.paths(FOLDER, ".parquet"))]


def _threshold_of(store: Store) -> float | None:
    """The threshold of the table; None if there is none."""
    path = next(iter(store.paths(FOLDER, ".parquet")), None)
    return None if path is None else float(store.schema(path).metadata[THRESHOLD])


def _read(faces: Faces, wanted: Callable[[str], bool], names: Identities) -> _Tracks:
    """All tracks of the wanted inputs, by uri and number, so that their order, and names, do not depend on shards."""
    found = []
    for uri, table in faces.by_input(["frame_index", "track", "identity_vector"], wanted):
        track, row, count = np.unique(table["track"].to_numpy(), return_inverse=True, return_counts=True)
        together = sorted(_together(table["frame_index"].to_numpy(), row))
        found.append((uri, track, count, _means(table["identity_vector"].combine_chunks(), row, len(track)), together))
    found.sort(key=itemgetter(0))
    uris = [uri for uri, track, *_ in found for _ in track]
    starts = itertools.accumulate((len(of[1]) for of in found), initial=0)
    tracks, counts, means = (list(map(itemgetter(k), found)) for k in (1, 2, 3))
    numbers = np.concatenate([*tracks, np.zeros(0, np.int32)])
    return _Tracks(
        uris,
        numbers,
        np.concatenate([*counts, np.zeros(0, np.int32)]),
        np.concatenate([*means, np.zeros((0, faces.detector.identity_width), np.float32)]),
        names.of(pa.array(uris, pa.string()), numbers).to_pylist(),
        [(start + a, start + b) for start, of in zip(starts, found) for a, b in of[4]],
    )


def _together(frame: np.ndarray, row: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of tracks (numbers from 0, by row) that one frame shows."""
    frames, at = np.unique(frame, return_inverse=True)
    if len(frames) == len(frame):
        return set()
    shown = np.zeros((len(frames), int(row.max()) + 1), np.float32)
    shown[at, row] = 1
    a, b = np.nonzero(np.triu(shown.T @ shown, 1))
    return set(zip(a.tolist(), b.tolist()))


def _means(vectors: pa.FixedSizeListArray, row: np.ndarray, count: int) -> np.ndarray:
    """(count, D) float32 the mean vector of each track, NaN where there is none."""
    has = vectors.is_valid().to_numpy(zero_copy_only=False)
    values = vectors.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.type.list_size)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, row[has], values)
    with np.errstate(invalid="ignore"):
        return (sums / np.bincount(row[has], minlength=count)[:, None]).astype(np.float32)


def _add(store: Store, tracks: _Tracks, threshold: float) -> None:
    """Cluster tracks and add their rows."""
    people = _people(store)
    has = ~np.isnan(tracks.mean[:, 0])
    directions = np.full(tracks.mean.shape, np.nan, np.float32)
    directions[has] = unit_vectors(tracks.mean[has])
    names: list[str | None] = list(tracks.given)
    named = np.array([name is not None for name in names], bool)
    if (named & has).any():
        mine = np.flatnonzero(named & has)
        people = _united(people, _grouped([str(names[i]) for i in mine], tracks.faces[mine], directions[mine]))
    todo = np.flatnonzero(has & ~named)
    at = np.full(len(has), -1)
    at[todo] = np.arange(len(todo))
    foes = [(int(at[a]), int(at[b])) for a, b in tracks.apart if at[a] >= 0 and at[b] >= 0]
    labels, clusters = cluster_vectors(
        directions[todo], tracks.faces[todo], people.clusters if people.names else None, threshold=threshold, apart=foes
    )
    known, taken, root = people.names, set(people.names), _root(store)
    for i, label in zip(todo.tolist(), labels.tolist()):
        if label == len(known):  # new labels count on in the order of the tracks
            known.append(_name(f"{root}{tracks.uri[i]}\0{tracks.track[i]}", taken))
        names[i] = known[label]
    distance = np.full(len(has), np.nan, np.float32)
    distance[todo] = np.linalg.norm(directions[todo] - clusters.centroid[labels], axis=1)
    _publish(store, tracks, names, distance, directions, threshold)


def _root(store: Store) -> str:
    """Settings and root of a dataset: with an input and a track they name a track among all datasets."""
    info = run_info.load(store) or {}
    root = info.get("settings", {}).get("root", "")
    return f"{info.get('config', '')}\0{root + '/' if root else ''}"


def _name(first: str, taken: set[str]) -> str:
    """The name of a new person, by a hash of the first track."""
    names = (blake2b(f"{first}\0{attempt}".encode(), digest_size=8).digest() for attempt in itertools.count())
    name = next(n for n in ("p" + b32encode(digest).decode().lower()[:12] for digest in names) if n not in taken)
    taken.add(name)
    return name


def _publish(
    store: Store,
    tracks: _Tracks,
    names: list[str | None],
    distance: np.ndarray,
    directions: np.ndarray,
    threshold: float,
) -> None:
    """Add rows: objects of about `ROWS`, cut between inputs."""
    columns = schema.identities_schema(directions.shape[1])
    columns = columns.with_metadata({**columns.metadata, THRESHOLD: repr(threshold).encode()})
    firsts = [i for i, uri in enumerate(tracks.uri) if not i or uri != tracks.uri[i - 1]]
    starts = [0]
    for first in firsts:
        if first - starts[-1] >= ROWS:
            starts.append(first)
    for start, stop in zip(starts, [*starts[1:], len(names)]):
        here, has = slice(start, stop), ~np.isnan(directions[start:stop, 0])
        own = pa.array(directions[here].ravel())
        values = {
            "uri": tracks.uri[here],
            "track": pa.array(tracks.track[here].astype(np.int32)),
            "identity": names[here],
            "distance": pa.array(distance[here], mask=np.isnan(distance[here])),
            "faces": pa.array(tracks.faces[here].astype(np.int32)),
            "vector": pa.FixedSizeListArray.from_arrays(own, directions.shape[1], mask=pa.array(~has)),
        }
        publish_by_hash(store, FOLDER, schema.table_of(values, columns))


def _people(store: Store) -> _People:
    """Everyone in the table."""
    tables = [t.filter(t["vector"].is_valid()) for t in _tables(store, ["identity", "faces", "vector"])]
    if not tables:
        return _People([], IdentityClusters(np.zeros(0, np.int64), np.zeros((0, 0)), np.zeros(0), np.zeros(0)))
    names = [name for table in tables for name in table["identity"].to_pylist()]
    faces = np.concatenate([table["faces"].to_numpy() for table in tables])
    width = tables[0]["vector"].type.list_size
    vectors = [c.flatten().to_numpy().reshape(-1, width) for table in tables for c in table["vector"].chunks]
    return _grouped(names, faces, np.concatenate([*vectors, np.zeros((0, width), np.float32)]))


def _grouped(names: list[str], faces: np.ndarray, directions: np.ndarray) -> _People:
    """People of tracks with these names, numbers of faces and directions."""
    numbers: dict[str, int] = {}
    code = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    order = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[order], np.arange(len(numbers)))
    weight = np.bincount(code, faces, len(numbers))
    share = faces[order] / weight[code[order]]
    centroid = (
        np.add.reduceat(directions[order] * share[:, None].astype(np.float32), starts) if len(code) else directions
    )
    gap = directions[order] - centroid[code[order]]
    scatter = np.bincount(code[order], share * np.einsum("nd,nd->n", gap, gap), len(numbers))
    return _People(list(numbers), IdentityClusters(np.arange(len(numbers)), centroid, weight, scatter))


def _some(people: _People, rows: np.ndarray) -> IdentityClusters:
    of = people.clusters
    return IdentityClusters(of.ids[rows], of.centroid[rows], of.weight[rows], of.scatter[rows])


def _united(one: _People, other: _People) -> _People:
    """The people of both; those of one name are one."""
    if not one.names:
        return other
    names = [*one.names, *other.names]
    a, b = one.clusters, other.clusters
    both = _grouped(names, np.concatenate([a.weight, b.weight]), np.concatenate([a.centroid, b.centroid]))
    within = _grouped(names, np.concatenate([a.weight, b.weight]), np.concatenate([a.scatter, b.scatter])[:, None])
    of = both.clusters
    return _People(
        both.names, IdentityClusters(of.ids, of.centroid, of.weight, of.scatter + within.clusters.centroid[:, 0])
    )


def _end_renaming(store: Store) -> None:
    """Give people the names that a join chose; does nothing if none is under way."""
    try:
        renamed = json.loads(store.read(RENAMED))
    except FileNotFoundError:
        return
    for path in sorted(store.paths(FOLDER, ".parquet")):
        table = store.table(path)
        names = [renamed.get(name, name) for name in table["identity"].to_pylist()]
        if names != table["identity"].to_pylist():
            at = table.schema.get_field_index("identity")
            table = table.set_column(at, table.schema.field("identity"), pa.array(names, pa.string()))
            store.publish(path, plain_parquet(table))
    store.delete(RENAMED)


def _report(store: Store, threshold: float, added: int) -> IdentityReport:
    people, inputs = CompactSet(), CompactSet()
    tracks = unknown = 0
    for table in _tables(store, ["uri", "identity"]):
        unknown += table["identity"].null_count
        tracks += len(table) - table["identity"].null_count
        for uri in pc.unique(table["uri"]).to_pylist():
            inputs.add(uri)
        for name in pc.unique(table["identity"].drop_null()).to_pylist():
            people.add(name)
    return IdentityReport(threshold, len(people), tracks, unknown, len(inputs), added)


def rename_inputs(store: Store, renamed: Callable[[str], str]) -> None:
    """Give the inputs of the table other uris."""
    for path in sorted(store.paths(FOLDER, ".parquet")):
        table = store.table(path)
        at = table.schema.get_field_index("uri")
        uris = pa.array([renamed(uri) for uri in table["uri"].to_pylist()], pa.string())
        store.publish(path, plain_parquet(table.set_column(at, table.schema.field("uri"), uris)))
