"""Names and shapes of the arrays in a file of weights, without reading their numbers and without executing anything.

Path: a file -> outline -> `recognition.py`.

Pickles (torch, FLAME) are followed by an unpickler in which every name stands for an object that does nothing. Names
that plain arrays do not need are reported, so that a file that would run something can be refused.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from rigface.errors import BadCheckpoint

Shape = tuple[int, ...]

MAX_HEADER = 100 * 2**20  # bytes of a safetensors header, as the format's own reader allows
_LEGACY_PICKLES = 4  # magic number, version, machine, then the content
_DATA = {  # names that files of plain arrays mention
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("copy_reg", "_reconstructor"),
    ("copyreg", "_reconstructor"),
    *((module, name) for module in ("__builtin__", "builtins") for name in ("object", "set")),
}
_DATA_MODULES = ("numpy.", "scipy.sparse.", "chumpy.", "torch._utils.", "torch.storage.")


@dataclass(frozen=True)
class Outline:
    """Content of a file."""

    shapes: dict[str, Shape]  # of its arrays, by dotted name
    foreign: tuple[str, ...] = field(default=())  # other things that a pickle names, such as os.system


def outline(path: Path) -> Outline | None:
    """Outline of a file; None if it is of no known kind.

    Raises:
        BadCheckpoint: it is damaged, or is not what its suffix says.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        return None
    try:
        return reader(path)
    except Exception as error:  # a damaged file leads the parsers to errors of any kind
        reason = str(error) or type(error).__name__
        raise BadCheckpoint(f"it is damaged, or not a {path.suffix} file: {reason}") from error


def _torch(path: Path) -> Outline:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            index = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(index) as stream:
                return _pickled(stream, 1)
    with path.open("rb") as file:
        return _pickled(file, _LEGACY_PICKLES)


def _flame(path: Path) -> Outline:
    with path.open("rb") as file:
        return _pickled(file, 1)


def _pickled(stream: IO[bytes], count: int) -> Outline:
    foreign: set[str] = set()
    for _ in range(count):
        content = _Skeleton(stream, foreign).load()
    return Outline(dict(_arrays(content, "")), tuple(sorted(foreign)))


def _safetensors(path: Path) -> Outline:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(MAX_HEADER, path.stat().st_size):
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        _reaches(file, max((value["data_offsets"][1] for value in header.values()), default=0))
    return Outline({name: tuple(value["shape"]) for name, value in header.items()})


def _reaches(file: IO[bytes], size: int) -> None:
    if os.fstat(file.fileno()).st_size < file.tell() + size:
        raise ValueError("it ends too early")


def _npz(path: Path) -> Outline:
    with zipfile.ZipFile(path) as archive:
        shapes = {}
        for name in archive.namelist():
            with archive.open(name) as stream:
                shapes[name.removesuffix(".npy")] = _npy_header(stream)[0]
    return Outline(shapes)


def _npy(path: Path) -> Outline:
    with path.open("rb") as stream:
        shape, dtype = _npy_header(stream)
        if dtype.hasobject:
            return _pickled(stream, 1)
        _reaches(stream, math.prod(shape) * dtype.itemsize)
        return Outline({"": shape})


def _npy_header(stream: IO[bytes]) -> tuple[Shape, np.dtype]:
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[np.lib.format.read_magic(stream)[0]](stream)
    return tuple(shape), dtype


def _mat(path: Path) -> Outline:
    from scipy.io import whosmat

    return Outline({name: tuple(shape) for name, shape, _ in whosmat(path)})


def _obj(path: Path) -> Outline:
    """Vertices and texture coordinates of a Wavefront file."""
    with path.open(encoding="ascii", errors="replace") as file:
        kinds = [line.split(" ", 1)[0] for line in file]
    return Outline({kind: (kinds.count(kind),) for kind in ("v", "vt", "f")})


class _Inert:
    """Anything that a pickle makes: keeps what it was made from and does nothing."""

    kind = ""  # module and name that the file gives it
    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any) -> _Inert:
        made = super().__new__(cls)
        made.args, made.state, made.items = args, None, {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...
    def add(self, value: Any) -> None: ...


class _Skeleton(pickle.Unpickler):
    """Unpickler that imports and calls nothing."""

    def __init__(self, stream: IO[bytes], foreign: set[str]) -> None:
        super().__init__(stream, encoding="latin1")
        self._foreign = foreign

    def find_class(self, module: str, name: str) -> Any:
        is_storage = module == "torch" and name.endswith("Storage")
        if not (is_storage or (module, name) in _DATA or f"{module}.".startswith(_DATA_MODULES)):
            self._foreign.add(f"{module}.{name}")
        return type(name, (_Inert,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()


def _arrays(node: Any, at: str) -> list[tuple[str, Shape]]:
    """Dotted name and shape of each array below a node."""
    if isinstance(node, _Inert) and node.items:
        node = node.items
    if isinstance(node, dict):
        return [
            pair
            for key, value in node.items()
            if isinstance(key, str)
            for pair in _arrays(value, f"{at}.{key}" if at else key)
        ]
    if isinstance(node, _Inert) and isinstance(content := _only_object(node), dict):
        return _arrays(content, at)
    shape = _shape_of(node) if isinstance(node, _Inert) else None
    return [] if shape is None else [(at, shape)]


def _only_object(node: _Inert) -> Any:
    """What an array of one object holds, as in FLAME's landmark embedding."""
    if isinstance(node.state, tuple) and len(node.state) == 5 and isinstance(node.state[4], list) and node.state[4]:
        return node.state[4][0]
    return None


def _shape_of(node: _Inert) -> Shape | None:
    kind = node.kind
    if kind == "torch._utils._rebuild_tensor_v2" and len(node.args) > 2:
        return _sizes(node.args[2])
    if kind == "torch._utils._rebuild_parameter" and node.args:
        return _shape_of(node.args[0])
    if kind.endswith("multiarray._reconstruct") and isinstance(node.state, tuple) and len(node.state) > 1:
        return _sizes(node.state[1])
    if kind.endswith("numeric._frombuffer") and len(node.args) > 2:
        return _sizes(node.args[2])
    if isinstance(node.state, dict):  # chumpy's or scipy's, which keep the array or the shape inside
        for key in ("x", "a"):
            if isinstance(inner := node.state.get(key), _Inert):
                return _shape_of(inner)
        return _sizes(node.state.get("_shape"))
    return None


def _sizes(value: Any) -> Shape | None:
    if isinstance(value, tuple) and all(type(size) is int for size in value):
        return value
    return None


_READERS: dict[str, Callable[[Path], Outline]] = {
    **dict.fromkeys((".pth", ".pt", ".tar", ".ckpt", ".bin"), _torch),
    ".pkl": _flame,
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".npy": _npy,
    ".mat": _mat,
    ".obj": _obj,
}
