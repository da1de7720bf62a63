"""Read FLAME's albedo model: a mean texture and its principal directions.

Path: FLAME_texture.npz or FLAME_albedo_from_BFM.npz -> load_texture -> `Head.texture_mean`, `texture_basis`.
Source: the file formats as DECA reads them (Feng et al., SIGGRAPH 2021): every second texel, the first 50 directions;
both files store blue first.

A real file unpacks to more than 600 MB, so it is read row by row and only what is kept is held.
"""

from __future__ import annotations

import zipfile
from math import isqrt
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np

from rigface.errors import BadCheckpoint

STEP = 2  # every second texel is kept
_LAYOUTS = {"tex_dir": ("mean", 255.0), "PC": ("MU", 1.0)}  # name of the directions -> name of the mean, its full scale


def load_texture(path: str | PathLike[str], count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """The mean (T, T, 3) and the first `count` directions (T, T, 3, count), float32 RGB, 1 is white; not clamped.

    Raises:
        BadCheckpoint: the file is damaged or is no albedo model of FLAME, or it has fewer directions.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, count)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise BadCheckpoint(
            f"{path.name}: want FLAME_texture.npz (mean, tex_dir) or FLAME_albedo_from_BFM.npz (MU, PC) with at least "
            f"{count} directions: {error}; download it again"
        ) from error


def _read(archive: zipfile.ZipFile, count: int) -> tuple[np.ndarray, np.ndarray]:
    names = archive.namelist()
    directions = next((name for name in _LAYOUTS if f"{name}.npy" in names), None)
    if directions is None:
        raise ValueError(f"it holds {', '.join(names) or 'nothing'}")
    mean_name, scale = _LAYOUTS[directions]
    if f"{mean_name}.npy" not in names:
        raise ValueError(f"it holds no {mean_name}")
    with archive.open(f"{mean_name}.npy") as file:
        shape, dtype = _header(file)
        side = isqrt(int(np.prod(shape)) // 3)
        if side < STEP or side * side * 3 != np.prod(shape):
            raise ValueError(f"{mean_name} has the shape {shape}, not (T, T, 3)")
        mean = _numbers(file, dtype, side * side * 3).reshape(side, side, 3)
    with archive.open(f"{directions}.npy") as file:
        shape, dtype = _header(file)
        total, width = int(np.prod(shape)), shape[-1]
        if total != side * side * 3 * width or width < count:
            raise ValueError(f"{directions} has the shape {shape}, for a mean of {side} x {side} texels")
        rows = (_numbers(file, dtype, total // side).reshape(side, 3, width)[::STEP, ::-1, :count] for _ in range(side))
        basis = np.stack([row.astype(np.float32) for i, row in enumerate(rows) if i % STEP == 0])
    return mean[::STEP, ::STEP, ::-1].astype(np.float32) / np.float32(scale), basis / np.float32(scale)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and element type of the .npy file that begins here."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, column_major, dtype = read(file)
    if column_major or dtype.kind not in "biuf" or not shape:
        raise ValueError(f"an array of {dtype} in {'columns' if column_major else 'rows'} of shape {shape}")
    return shape, dtype


def _numbers(file: IO[bytes], dtype: np.dtype, count: int) -> np.ndarray:
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise EOFError("it ends early")
    return np.frombuffer(data, dtype)
