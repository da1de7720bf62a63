"""The columns of a dataset of faces that pairing needs, in memory, without pictures.

Path: OUT/faces -> `read_frames` -> `pair_sampling.candidates`. About half a kilobyte a face.
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


def read_frames(source: Store, minima: dict[str, float]) -> tuple[pair_sampling.Frames, np.ndarray]:
    """The light columns of a dataset, and (N, 2) the part (path) and row (number) of each face; PlanError if N is 0.

    Rows below one of the `minima` of `GATES` are not `good`.
    """
    columns = ["uri", "frame_index", "track", "identity", "status", *GATES]
    columns += ["head_rotation", "expression", "light", "frame_to_crop", "identity_vector"]
    tables, places = [], []
    for path, first, rows in Faces(source).batches(columns):
        tables.append(pa.Table.from_batches([rows]))
        places += [(path, first + i) for i in range(len(rows))]
    whole = pa.concat_tables(tables).combine_chunks()
    if not len(whole):
        raise PlanError(f"{source.uri}: no faces in this dataset")
    text = {name: np.array([v or "" for v in whole[name].to_pylist()]) for name in ("uri", "identity", "status")}
    good = text["status"] == "ok"
    for name in GATES:
        good &= np.nan_to_num(whole[name].to_numpy(zero_copy_only=False).astype(np.float64), nan=-1) >= minima[name]
    track = whole["track"].to_numpy()
    unnamed = text["identity"] == ""
    text["identity"][unnamed] = [f"{u}#{t}" for u, t in zip(text["uri"][unnamed], track[unnamed])]
    frames = pair_sampling.Frames(
        identity=text["identity"],
        uri=text["uri"],
        track=track,
        index=whole["frame_index"].to_numpy(),
        rotation=to_matrix(np.nan_to_num(_wide(whole, "head_rotation"))),
        expression=_wide(whole, "expression"),
        light=_wide(whole, "light").reshape(len(whole), 9, 3),
        zoom=_wide(whole, "frame_to_crop")[:, 0],
        good=good,
        vectors=_track_vectors(_wide(whole, "identity_vector"), text["uri"], track),
    )
    return frames, np.array(places, dtype=object)


def people_in(source: Store) -> int:
    """Number of people in a dataset of faces; a track without an identity counts as one."""
    people = CompactSet()
    for _, _, rows in Faces(source).batches(["uri", "track", "identity"]):
        for uri, track, name in zip(*(rows[column].to_pylist() for column in ("uri", "track", "identity"))):
            people.add(name or f"{uri}#{track}")
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
