"""Read the pickles that FLAME ships as data, without executing them.

Path: generic_model.pkl, landmark_embedding.npy -> load_pickle / load_npy -> `load_flame`.
Source: `pickle_vm.py` follows the file's opcodes and calls nothing; here its inert objects become arrays with all
bounds checked: numpy arrays and scalars, scipy sparse matrices, chumpy containers (as the array they hold), CPU torch
tensors.

Deviates: protocol 0 (text) pickles whose arrays are escaped byte strings are refused as damaged; FLAME has none.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rigface.errors import UnsafeFile
from rigface.face.head.pickle_vm import CONTAINERS, UNSET, InertCall, InertGlobal, expect, run_pickle

MAX_BYTES = 256 * 2**20  # the released generic_model.pkl has 53 MB
MAX_GROWTH = 16  # arrays may take this many times the bytes of the file; shared memory would allow any number
SPARE_BYTES = 2**18  # and this much more, whatever the file's size
_CODE = re.compile(r"[biuf][1248]|c8|c16|[SU]\d{1,4}|O8?|\?")


def load_pickle(source: str | os.PathLike[str] | bytes | BinaryIO, *, max_bytes: int = MAX_BYTES) -> Any:
    """The data in a pickle.

    Args:
        source: a path, the bytes themselves, or a file open for reading; FLAME's Python 2 pickles are read as latin-1.
        max_bytes: a larger file is refused before it is read.

    Returns:
        dict, list, tuple, set, str, bytes, numbers and None; arrays, chumpy containers and torch tensors as numpy
        arrays of their own dtype; sparse matrices as scipy matrices whose indices were checked.

    Raises:
        UnsafeFile: the file names anything that is not on the list, is too large, or is damaged.
    """
    data = _read(source, max_bytes)
    try:
        return _Values(len(data)).of(run_pickle(io.BytesIO(data)))
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, struct.error) as e:
        raise UnsafeFile(f"this is not a pickle of plain arrays, or it is damaged: {e}") from e


def load_npy(source: str | os.PathLike[str] | bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """The data in a .npy file, of numbers or of pickled objects (FLAME's landmark embedding is a pickled dict).

    An array of one object gives that object, as `load_pickle` would; it also refuses as that does.
    """
    data = _read(source, max_bytes)
    stream = io.BytesIO(data)
    try:  # not `np.load`: it allocates what the header says before it reads
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = read_header(stream)
        if not dtype.hasobject:
            count = math.prod(map(_size, shape))
            flat = np.frombuffer(data, dtype, count, stream.tell()) if count else np.empty(0, dtype)
            return flat.reshape(shape, order="F" if fortran else "C").copy(order="K")
    except Exception as e:  # numpy's parser of headers raises errors of any kind
        raise UnsafeFile(f"this is not a .npy file, or it is damaged: {e}") from e
    value = load_pickle(data[stream.tell() :])
    return value.item() if isinstance(value, np.ndarray) and value.shape == () else value


def _read(source: Any, max_bytes: int) -> bytes:
    if isinstance(source, bytes):
        data = source[: max_bytes + 1]
    elif hasattr(source, "read"):
        data = source.read(max_bytes + 1)
    else:
        with Path(source).open("rb") as file:
            data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UnsafeFile(f"the file is larger than {max_bytes:,} bytes; a head model is not")
    return data


class _Values:
    """Turns the result of `run_pickle` into arrays. Each object once, so shared references stay shared and cost
    nothing.
    """

    def __init__(self, file_bytes: int) -> None:
        self._budget = MAX_GROWTH * file_bytes + SPARE_BYTES
        self._done: dict[int, Any] = {}  # id -> value; `_keep` holds the objects, so that no id is used twice
        self._keep: list[Any] = []

    def of(self, node: Any) -> Any:
        if isinstance(node, InertGlobal):
            raise UnsafeFile(f"the file keeps {node.name} itself as a value; that is not data")
        if not isinstance(node, list | tuple | dict | InertCall):
            return node
        if id(node) in self._done:
            if self._done[id(node)] is UNSET:
                raise ValueError("an object contains itself")
            return self._done[id(node)]
        self._done[id(node)] = UNSET
        self._keep.append(node)
        if isinstance(node, dict):
            value: Any = {k: self.of(v) for k, v in node.items()}
        elif isinstance(node, list | tuple):
            value = type(node)(map(self.of, node))
        else:
            value = self._made(node)
        self._done[id(node)] = value
        return value

    def _made(self, node: InertCall) -> Any:
        if node.kind in CONTAINERS:
            return self._container(node.kind, {k: self.of(v) for k, v in expect(node.state, dict, "BUILD").items()})
        if node.kind == "dtype":
            return _dtype(node)
        if node.kind == "array":
            state: Any = node.state
            _, shape, dtype, fortran, raw = state
            return self._array(shape, self.of(dtype), "F" if fortran else "C", raw)
        if node.kind == "frombuffer":  # how protocol 5 writes a contiguous array
            raw, dtype, shape, order = node.args
            return self._array(shape, self.of(dtype), order, raw)
        if node.kind == "scalar":
            return self._array((), self.of(node.args[0]), "C", node.args[1])[()]
        if node.kind == "tensor":
            return self._tensor(*node.args[:4])
        raise ValueError(f"a {node.kind} outside of its place")

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise UnsafeFile("the arrays would take far more memory than the file; a head model's do not")

    def _array(self, shape: Any, dtype: np.dtype, order: Any, raw: Any) -> np.ndarray:
        count = math.prod(map(_size, shape))
        self._spend(count * dtype.itemsize)
        if dtype.hasobject:
            if len(expect(raw, list, "array of objects")) != count:
                raise ValueError(f"{len(raw)} objects for an array of shape {shape}")
            values = np.empty(count, object)
            for i, item in enumerate(raw):  # one by one: numpy would spread an item that is itself an array
                values[i] = self.of(item)
            return values.reshape(shape, order=order)
        data = raw.encode("latin-1") if isinstance(raw, str) else bytes(expect(raw, bytes | bytearray, "array"))
        if len(data) != count * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes for an array of shape {shape} of {dtype}")
        return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order="K")

    def _tensor(self, storage: Any, offset: int, shape: Any, strides: Any) -> np.ndarray:
        flat = _storage(expect(storage, InertCall, "tensor"))
        shape, strides = tuple(map(_size, shape)), tuple(map(_size, strides))
        self._spend(math.prod(shape) * flat.itemsize)
        last = _size(offset) + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if 0 not in shape and last >= len(flat):
            raise ValueError(f"a tensor reaches element {last} of {len(flat)}")
        view = np.lib.stride_tricks.as_strided(flat[offset:], shape, [s * flat.itemsize for s in strides])
        return view.copy()

    def _container(self, kind: str, state: dict[str, Any]) -> Any:
        """The array that a chumpy or scipy object holds, from its attributes."""
        if kind == "Ch":
            return _array_of(state["x"])
        if kind == "Select":  # some elements of another array, in a new shape
            source, indices = _array_of(state["a"]), _array_of(state["idxs"])
            self._spend((source.size + indices.size) * source.itemsize)  # `ravel` may copy
            picked = np.ravel(source)[indices]
            shape = state.get("preferred_shape")
            return picked if shape is None else picked.reshape(shape)
        if kind == "Reshape":
            source = _array_of(state["a"])
            self._spend(source.nbytes)
            return np.reshape(source, state["newshape"])
        from scipy import sparse

        shape = tuple(map(int, state["_shape"]))
        parts = [_array_of(part) for part in _sparse_parts(kind, state)]
        if len(shape) != 2 or min(shape) < 0 or any(part.ndim != 1 or part.dtype.kind not in "biuf" for part in parts):
            raise ValueError(f"a sparse matrix of shape {shape}")
        self._spend(math.prod(shape) * parts[0].itemsize)  # as if it were dense: it is going to be
        self._spend(2 * sum(part.nbytes for part in parts) + 8 * shape[0])  # scipy may copy and widen indices
        if kind == "coo":
            return sparse.coo_matrix((parts[0], (parts[1], parts[2])), shape)  # checks its indices itself
        matrix = getattr(sparse, f"{kind}_matrix")(tuple(parts), shape)
        matrix.check_format(full_check=True)  # an index out of range would read foreign memory when made dense
        return matrix


def _array_of(value: Any) -> np.ndarray:
    """An array or a number. Lists are refused: numpy would write out each list that is named many times."""
    if not isinstance(value, np.ndarray | np.generic | int | float):
        raise ValueError(f"a {type(value).__name__} in place of an array")
    return np.asarray(value)


def _sparse_parts(kind: str, state: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The numbers and the two arrays of indices."""
    if kind == "coo":
        return state["data"], *(state["coords"] if "coords" in state else (state["row"], state["col"]))
    return state["data"], state["indices"], state["indptr"]


def _size(n: Any) -> int:
    if type(n) is not int or not 0 <= n < 2**63:
        raise ValueError(f"{n!r:.40} as a size")
    return n


def _dtype(node: InertCall) -> np.dtype:
    code = node.args[0]
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    order, *names = node.state[1:4] if isinstance(node.state, tuple) else ("=",)
    if not isinstance(code, str) or not _CODE.fullmatch(code) or order not in ("<", ">", "|", "=") or any(names):
        raise ValueError(f"the element type {code!r}")
    return np.dtype(object if code[0] == "O" else code).newbyteorder(order)


def _storage(node: InertCall) -> np.ndarray:
    """The flat array in the bytes of a torch storage: magic, version, system, object, keys, count, numbers."""
    if node.kind != "storage" or len(node.args) != 1:
        raise ValueError(f"a tensor on a {node.kind}")
    stream = io.BytesIO(expect(node.args[0], bytes, "storage"))
    _magic, _version, _system, storage, _keys = (run_pickle(stream) for _ in range(5))
    if expect(storage, InertCall, "storage").kind != "persistent" or not isinstance(storage.args[0], tuple):
        raise ValueError("a storage without its description")
    kind = expect(storage.args[0][1], InertGlobal, "storage").kind
    if not kind.startswith("storage:"):
        raise ValueError(f"a storage of {kind}")
    dtype = np.dtype(kind.removeprefix("storage:"))
    (count,) = struct.unpack("<q", stream.read(8))
    return np.frombuffer(stream.read(_size(count) * dtype.itemsize), dtype, _size(count))
