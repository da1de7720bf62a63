"""Rows of a dataset of faces read back as `Face`s, for pairing, evaluation and edits that copy a face.

Path: OUT/faces -> (part, row) -> Face. Recent parts stay in memory, as rows of one job lie close together. A single row
is named `FOLDER#INPUT:FRAME`, followed by `:TRACK` if the frame shows several people.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rigface import schema
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.image import decode, decode_mask
from rigface.storage.store import Store
from rigface.types import Face, HeadSpec

MAX_PARTS = 4  # parts of faces/ in memory
COLUMNS = ("uri", "frame_index", "track", "crop", "mask", "frame_to_crop", "box", "landmarks")

_ROW = re.compile(r"(?P<folder>.+)#(?P<input>[^#]+?):(?P<frame>\d+)(:(?P<track>\d+))?")


class FaceReader:
    """Reads faces by part and row."""

    def __init__(self, faces: Store, head: HeadSpec) -> None:
        self._faces, self._head = faces, head
        self._parts: dict[str, pa.Table] = {}

    def read(self, wanted: Iterable[str]) -> None:
        """Load these parts; others are dropped beyond a few."""
        wanted = sorted(set(wanted))
        for path in [p for p in self._parts if p not in wanted][: max(0, len(self._parts) - MAX_PARTS)]:
            del self._parts[path]
        for path in wanted:
            if path not in self._parts:
                self._parts[path] = self._faces.table(path)

    def key(self, part: str, row: int) -> dict[str, Any]:
        """`uri`, `frame_index`, `track` and `time_s` of a row of a part that was read."""
        return self._parts[part].slice(row, 1).select(["uri", "frame_index", "track", "time_s"]).to_pylist()[0]

    def face(self, part: str, row: int) -> Face:
        """A row of a part that was read."""
        return _face_of(self._parts[part].slice(row, 1), self._head)


def _face_of(row: pa.Table, head: HeadSpec) -> Face:
    """A table of one row as a face."""
    params = schema.params_of(row, head).map(lambda a: a[0].copy())  # writable, as torch wants it
    cells = {name: row[name][0].as_py() for name in COLUMNS}
    return Face(
        crop=decode(cells["crop"]),
        frame_to_crop=np.float32(cells["frame_to_crop"]).reshape(2, 3),
        box=np.float32(cells["box"]),
        landmarks=np.float32(cells["landmarks"]).reshape(-1, 3),
        params=params,
        mask=decode_mask(cells["mask"]),
        residual=0.0,
        confidence=float(row["confidence"][0].as_py() or "nan"),
    )


def is_row(name: str) -> bool:
    """True if a name means a row of a dataset, not a file."""
    return _ROW.fullmatch(name) is not None


def face_at(name: str) -> tuple[Face, HeadSpec]:
    """A row by `FOLDER#INPUT:FRAME` or `FOLDER#INPUT:FRAME:TRACK`, and the head model of its coefficients.

    INPUT is the end of an input's uri. PlanError if there is no such dataset or row, or several rows.
    """
    match = _ROW.fullmatch(name)
    if match is None:
        raise PlanError(f"{name}: want FOLDER#INPUT:FRAME, such as out/faces#clip.mp4:120")
    store = Store(re.sub("^s3:/+", "s3://", match["folder"]))  # a path has one slash where an address has two
    head = Faces(store).head
    wanted = (pc.field("frame_index") == int(match["frame"])) & (pc.field("status") == "ok")
    wanted &= pc.ends_with(pc.field("uri"), match["input"])
    if match["track"]:
        wanted &= pc.field("track") == int(match["track"])
    import pyarrow.dataset as ds  # imports pandas

    rows = ds.dataset(store.at("faces"), filesystem=store.fs, format="parquet").to_table(filter=wanted)
    if len(rows) != 1:
        keys = rows.select(["uri", "frame_index", "track"]).slice(0, 3).to_pylist()
        names = "; ".join(f"{k['uri']}:{k['frame_index']}:{k['track']}" for k in keys)
        raise PlanError(
            f"{name}: want one row of {store.uri}, found {len(rows)}: {names or 'no face of that input and frame'}"
        )
    return _face_of(rows, head), head
