"""A dataset of faces as a Ray dataset, with vectors as tensors.

Path: OUT/faces, OUT/identities -> `read_faces` -> your own `map_batches`, `iter_torch_batches`, `write_*`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rigface.dataset.faces import Faces
from rigface.ray.tensors import tensor_shapes, tensors

if TYPE_CHECKING:
    import ray.data


def read_faces(out: str, columns: Sequence[str] | None = None, *, pictures: bool = False) -> "ray.data.Dataset":
    """The faces of a dataset (a folder or s3:// prefix), one object of faces/ per block.

    Vectors are tensors of their own shape, such as `landmarks` (478, 3) and `light` (9, 3), float32, NaN where null.
    Ray is joined or started as it is for any `ray.data.read_*`.

    Args:
        columns: those to read; None: all, with `identity`.
        pictures: decode `crop` to (512, 512, 3) and `mask` to (512, 512) uint8; else they are bytes. Zero where null.

    Raises:
        PlanError: there are no faces.
    """
    import ray.data

    parts = [{"part": part} for part in Faces(out).parts]
    read = _Read(out, None if columns is None else tuple(columns), pictures)
    return ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(read, batch_size=1)


class _Read:
    """Reads objects of faces/."""

    def __init__(self, out: str, columns: tuple[str, ...] | None, pictures: bool) -> None:
        self._out, self._columns, self._pictures = out, columns, pictures

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        faces = _faces(self._out)
        table = faces.table(str(batch["part"][0]), self._columns)
        return tensors(table, tensor_shapes(faces.head, faces.detector), self._pictures)


@lru_cache(maxsize=4)
def _faces(out: str) -> Faces:
    """One reader per process, which loads the identities once."""
    return Faces(out)
