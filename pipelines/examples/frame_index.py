"""The columns of faces that pairing needs, without pictures.

Path: a table of faces -> `frames_of` -> `pair_sampling.candidates`. `pair` makes them input by input; `read_frames` has
a whole dataset in memory, some kilobytes a face.
"""

import numpy as np
import pyarrow as pa

from pipelines.examples import pair_sampling
from pipelines.inputs.compact_set import CompactSet
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.face.geometry.rotation import to_matrix
from rigface.storage.store import Store

GATES = ("confidence", "sharpness", "face_size_px")
COLUMNS = (
    "uri", "frame_index", "track", "identity", "status", *GATES, "head_rotation", "expression", "light",
    "frame_to_crop", "identity_vector",
)  # fmt: skip


def frames_of(table: pa.Table, minima: dict[str, float]) -> pair_sampling.Frames:
    """The light columns of a table with `COLUMNS`; rows below one of the `minima` of `GATES` are not `good`."""
    text = {name: np.array([v or "" for v in table[name].to_pylist()]) for name in ("uri", "identity", "status")}
    good = text["status"] == "ok"
    for name in GATES:
        good &= np.nan_to_num(table[name].to_numpy().astype(np.float64), nan=-1) >= minima[name]
    track = table["track"].to_numpy()
    people = [name or unnamed(u, t) for name, u, t in zip(text["identity"].tolist(), text["uri"].tolist(), track)]
    return pair_sampling.Frames(
        identity=np.array(people),
        uri=text["uri"],
        track=track,
        index=table["frame_index"].to_numpy(),
        rotation=to_matrix(np.nan_to_num(_wide(table, "head_rotation"))),
        expression=_wide(table, "expression"),
        light=_wide(table, "light").reshape(len(table), 9, 3),
        zoom=_wide(table, "frame_to_crop")[:, 0],
        good=good,
        vectors=_track_vectors(_wide(table, "identity_vector"), text["uri"], track),
    )


def unnamed(uri: str, track: int) -> str:
    """Name of the person of a track without an identity."""
    return f"{uri}#{track}"


def read_frames(source: Store, minima: dict[str, float]) -> tuple[pair_sampling.Frames, np.ndarray]:
    """The light columns of a dataset, and (N, 2) the part (path) and row (number) of each face; PlanError if N is 0."""
    tables, places = [], []
    for path, first, rows in Faces(source).batches(COLUMNS):
        tables.append(pa.Table.from_batches([rows]))
        places += [(path, first + i) for i in range(len(rows))]
    if not places:
        raise PlanError(f"{source.uri}: no faces in this dataset")
    return frames_of(pa.concat_tables(tables).combine_chunks(), minima), np.array(places, dtype=object)


def people_in(source: Store) -> int:
    """Number of people in a dataset of faces; a track without an identity counts as one."""
    people = CompactSet()
    for _, _, rows in Faces(source).batches(["uri", "track", "identity"]):
        for uri, track, name in zip(*(rows[column].to_pylist() for column in ("uri", "track", "identity"))):
            people.add(name or unnamed(uri, track))
    return len(people)


def _wide(table: pa.Table, name: str) -> np.ndarray:
    """(N, width) float32 of a list column, NaN where null."""
    values = table[name].combine_chunks()
    wide = np.full((len(table), values.type.list_size), np.nan, np.float32)
    valid = ~values.is_null().to_numpy(zero_copy_only=False)
    wide[valid] = values.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, values.type.list_size)
    return wide


def _track_vectors(vectors: np.ndarray, uri: np.ndarray, track: np.ndarray) -> np.ndarray:
    """(N, D) the mean of the vectors of each row's track."""
    _, number = np.unique([f"{u}\0{t}" for u, t in zip(uri, track)], return_inverse=True)
    valid = ~np.isnan(vectors[:, 0])
    sums = np.zeros((number.max() + 1, vectors.shape[1]))
    np.add.at(sums, number[valid], vectors[valid])
    counts = np.bincount(number[valid], minlength=len(sums))[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)[number]
