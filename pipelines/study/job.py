"""Faces in, two tables for their study out: a row per face, and a row per track.

    OUT/study/frames/<24 hex>.parquet   action units, gaze, openings, velocity; see rigface/study/frame_columns.py
    OUT/study/tracks/<24 hex>.parquet   means, spreads, rates and counts; see rigface/study/track_summary.py

Everything is derived from stored columns, input by input: a track may run through several objects of faces/. Only
inputs that have their row in inputs/ are read, as the tracks of the others are not numbered yet. A row of `tracks`
names the version of its input (content and counts), so a run does what is new, and replaces what has changed.

The two objects of a batch have one name, that of `tracks` comes last: a batch without it is not done.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa

from pipelines.cluster.input_shares import Counts, Share, run_shares
from pipelines.extract.layout import plain_parquet, remove_rows
from pipelines.inputs.compact_set import CompactSet
from pipelines.study.config import StudyConfig
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.study.frame_columns import INPUT_COLUMNS, frame_table
from rigface.study.track_summary import track_table

FRAMES, TRACKS = "study/frames", "study/tracks"
BATCH_FACES = 8_192  # per object of frames/; 50 MB in memory


def study(config: StudyConfig, say: Callable[[str], None] = print) -> Counts:
    """Run the job; counts of the inputs, faces and tracks that were measured now.

    Raises:
        PlanError: there are no faces.
        OutputBusy: another run writes to this output.
    """
    source, store = Faces(config.faces), Store(config.to or config.faces)
    detector = source.detector  # PlanError if there are no faces
    if detector.landmarks != 478 or "jawOpen" not in detector.blendshape_names:
        say(f"the detector {detector.name} gives no MediaPipe landmarks and scores: columns that need them stay null")
    with lock.hold(store) as check:
        current = _current(source.store)
        stale, done = _stale(store, current)
        todo = len(current) - done
        say(f"{len(current):,} inputs with faces: {done:,} measured, {todo:,} to do, {len(stale):,} changed or removed")
        if config.dry_run or not (todo or stale):
            return {}
        remove_rows(store, TRACKS, stale)
        remove_rows(store, FRAMES, stale)
        finished = store.ids(TRACKS, ".parquet")
        for name in store.ids(FRAMES, ".parquet") - finished:  # of a run that was killed between the two
            store.delete(f"{FRAMES}/{name}.parquet")
        return run_shares(partial(MeasureShare, config.faces, store), todo, config.pool, store, check, say)


def _versions(source: Store, wanted: Callable[[str], bool] = lambda uri: True) -> Iterator[tuple[str, str]]:
    """Uri and version of each finished input with faces."""
    for path in source.paths("inputs", ".parquet"):
        table = source.table(path, ["uri", "sha256", "frames", "faces", "tracks"])
        for uri, *content in zip(*(column.to_pylist() for column in table.columns)):
            if content[2] and wanted(uri):
                yield uri, hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _current(source: Store) -> CompactSet:
    """Keys of the inputs as they are now; 12 bytes each."""
    current = CompactSet(_key(uri, version) for uri, version in _versions(source))
    if not len(current):
        raise PlanError(f"{source.uri}: no input with faces is finished; run `rigface extract` to its end")
    return current


def _key(uri: str, version: str) -> str:
    return f"{uri}\0{version}"


def _measured(store: Store) -> Iterator[tuple[str, str]]:
    """Uri and version of each measured input."""
    for path in store.paths(TRACKS, ".parquet"):
        table = store.table(path, ["uri", "version"])
        yield from sorted(set(zip(table["uri"].to_pylist(), table["version"].to_pylist())))


def _stale(store: Store, current: CompactSet) -> tuple[set[str], int]:
    """Inputs whose rows are not up to date, and the number of those whose rows are."""
    stale: set[str] = set()
    done = CompactSet()
    for uri, version in _measured(store):
        if _key(uri, version) in current:
            done.add(_key(uri, version))
        else:
            stale.add(uri)
    return stale, len(done)


class MeasureShare:
    """Measures the inputs of one share of all. One per actor."""

    def __init__(self, faces: str, store: Store) -> None:
        self._faces, self._store = Faces(faces), lock.follow(store)

    def __call__(self, share: Share) -> Iterator[Counts]:
        """Measure what is not done of a share, object by object; the counts of each."""
        done = {uri for uri, _ in _measured(self._store) if uri in share}
        versions = {
            uri: version for uri, version in _versions(self._faces.store, share.__contains__) if uri not in done
        }
        batch: list[pa.Table] = []
        for _, rows in self._faces.by_input(INPUT_COLUMNS, versions.__contains__):
            batch.append(rows)
            if sum(map(len, batch)) >= BATCH_FACES:
                yield self._measure(batch, versions)
                batch = []
        if batch:
            yield self._measure(batch, versions)

    def _measure(self, inputs: list[pa.Table], versions: dict[str, str]) -> Counts:
        """Measure and commit some inputs: the frames, then the tracks, which make them count."""
        frames, confidence = frame_table(pa.concat_tables(inputs), self._faces.detector)
        data = plain_parquet(tracks := track_table(frames, confidence, versions))
        name = hashlib.sha256(data).hexdigest()[:24]
        self._store.publish(f"{FRAMES}/{name}.parquet", plain_parquet(frames, use_dictionary=["uri"]))
        self._store.publish(f"{TRACKS}/{name}.parquet", data)
        return {"inputs": len(inputs), "faces": len(frames), "tracks": len(tracks)}
