"""Columns of faces/ as arrays of their own shape, which Ray Data keeps as tensors.

Path: a table of faces -> `tensors` -> a batch of arrays.
"""

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from rigface.image import decode, decode_mask
from rigface.types import CROP_PX, DetectorSpec, FaceParams, HeadSpec

PICTURES = {"crop": (decode, (CROP_PX, CROP_PX, 3)), "mask": (decode_mask, (CROP_PX, CROP_PX))}


def tensor_shapes(head: HeadSpec, detector: DetectorSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the vectors of faces/ that are more than one axis, or coefficients."""
    params = {f.name: tuple(head.size(axis) for axis in f.metadata["shape"]) for f in fields(FaceParams)}
    return {**params, "landmarks": (detector.landmarks, 3), "frame_to_crop": (2, 3)}


def tensors(table: pa.Table, shapes: dict[str, tuple[int, ...]], pictures: bool = False) -> dict[str, Any]:
    """Columns by name: vectors (N, *shape) float32, pictures uint8 if asked for, anything else as Arrow has it."""
    out: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            width = column.type.list_size
            values = np.full((len(column), width), np.nan, np.float32)
            known = column.is_valid().to_numpy(zero_copy_only=False)
            values[known] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            out[name] = values.reshape(len(column), *shapes.get(name, (width,)))
        elif pictures and name in PICTURES:
            read, shape = PICTURES[name]
            cells = [np.zeros(shape, np.uint8) if cell is None else read(cell) for cell in column.to_pylist()]
            out[name] = np.stack(cells) if cells else np.zeros((0, *shape), np.uint8)
        else:
            out[name] = column.to_numpy(zero_copy_only=False)
    return out
