"""Rows of a dataset of faces read back as `Face`s: what making examples and evaluating start from.

Path: OUT/faces -> (part, row) -> Face. Parts read lately stay in memory, for rows of one job lie close together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from rigface import schema
from rigface.image import decode, decode_mask
from rigface.storage import Store
from rigface.types import Face, HeadSpec

PARTS_KEPT = 4  # parts of faces/ in memory
COLUMNS = ("uri", "frame_index", "track", "crop", "mask", "frame_to_crop", "box", "landmarks")


class FaceReader:
    """Reads faces by part and row.

    Args:
        head: the head model of the dataset.
    """

    def __init__(self, faces: Store, head: HeadSpec) -> None:
        self._faces, self._head = faces, head
        self._parts: dict[str, pa.Table] = {}

    def read(self, wanted: Iterable[str]) -> None:
        """Have these parts in memory, and few others."""
        wanted = sorted(set(wanted))
        for path in [p for p in self._parts if p not in wanted][: max(0, len(self._parts) - PARTS_KEPT)]:
            del self._parts[path]
        for path in wanted:
            if path not in self._parts:
                self._parts[path] = self._faces.table(path)

    def key(self, part: str, row: int) -> dict[str, Any]:
        """`uri`, `frame_index`, `track` and `time_s` of a row of a part that was read."""
        return self._parts[part].slice(row, 1).select(["uri", "frame_index", "track", "time_s"]).to_pylist()[0]

    def face(self, part: str, row: int) -> Face:
        """A row of a part that was read."""
        one = self._parts[part].slice(row, 1)
        params = schema.params_of(one, self._head).map(lambda a: a[0].copy())  # writable, as torch wants it
        cells = {name: one[name][0].as_py() for name in COLUMNS}
        return Face(
            crop=decode(cells["crop"]),
            frame_to_crop=np.float32(cells["frame_to_crop"]).reshape(2, 3),
            box=np.float32(cells["box"]),
            landmarks=np.float32(cells["landmarks"]).reshape(-1, 3),
            params=params,
            mask=decode_mask(cells["mask"]),
            residual=0.0,
        )
