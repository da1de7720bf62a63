"""Restricted reader of pickles: data come out, and nothing that the file names is imported or called.

Path: FLAME's generic_model.pkl and landmark_embedding.npy, a Lightning .ckpt -> pickletools.genops (lengths, count and
kind of every opcode) -> _Reader (names and calls as `_Inert` objects) -> _Arrays (numpy and scipy, all bounds checked).

Deviates: protocol 0 (text) is refused; no file of FLAME's uses it.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rigface.errors import UnsafeFile

MAX_BYTES = 256 * 2**20  # the released generic_model.pkl has 53 MB
MAX_OPCODES = 100_000  # a head model needs some hundreds; one opcode of a byte makes an object of about 200 bytes
MAX_ZIP_OPCODES = 20 * MAX_OPCODES  # a training checkpoint describes thousands of tensors and its whole configuration
MAX_GROWTH = 16  # arrays may take this many times the bytes of the file; shared memory would allow any number
SPARE_BYTES = 2**18  # and this much more, whatever the file's size

_CODE = re.compile(r"[biuf][1248]|c8|c16|[SU]\d{1,4}|O8?|\?")  # of a numpy dtype
_REFUSED = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "DICT", "FROZENSET", "PERSID", "NEXT_BUFFER"}
_STORAGES = dict(Float="f4", Double="f8", Half="f2", Long="i8", Int="i4", Short="i2", Char="i1", Byte="u1", Bool="?")
_OBJECTS = {"csc", "csr", "coo", "Ch", "Select", "Reshape"}  # made without arguments, filled by BUILD
_KINDS: dict[str, str] = {  # every name that a file may mention
    **{f"numpy.{core}.multiarray._reconstruct": "array" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": "frombuffer" for core in ("core", "_core")},
    "numpy.ndarray": "type",
    "numpy.dtype": "dtype",
    **{f"scipy.sparse.{m}{kind}.{kind}_matrix": kind for kind in ("csc", "csr", "coo") for m in ("", "_")},
    "chumpy.ch.Ch": "Ch",
    "chumpy.reordering.Select": "Select",
    "chumpy.reordering.Reshape": "Reshape",
    **{f"{module}.set": "set" for module in ("__builtin__", "builtins")},
    **{f"{module}.object": "type" for module in ("__builtin__", "builtins")},
    **{f"{module}._reconstructor": "reconstructor" for module in ("copy_reg", "copyreg")},
    "_codecs.encode": "encode",
    "collections.OrderedDict": "dict",
    "torch._utils._rebuild_tensor_v2": "tensor",
    "torch._utils._rebuild_parameter": "parameter",
    "torch.storage._load_from_bytes": "storage",
    **{f"torch.{name}Storage": "type" for name in _STORAGES},
}


def load_pickle(source: str | os.PathLike[str] | bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """The data in a pickle.

    Args:
        source: a path, or the bytes themselves; FLAME's Python 2 pickles are read as latin-1.
        max_bytes: a larger file is refused before it is read.

    Returns:
        dict, list, tuple, set, str, bytes, numbers and None; arrays, chumpy containers and torch tensors as numpy
        arrays of their own dtype; sparse matrices as scipy matrices whose indices were checked.

    Raises:
        UnsafeFile: the file names anything that is not on the list, is too large, or is damaged.
    """
    data = _read(source, max_bytes)
    return _guarded("pickle of plain arrays", lambda: _Arrays(len(data)).of(_run(io.BytesIO(data))))


def load_npy(source: str | os.PathLike[str] | bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """The data in a .npy file, of numbers or of pickled objects (FLAME's landmark embedding is a pickled dict).

    An array of one object gives that object, as `load_pickle` would; it also refuses as that does.
    """
    data = _read(source, max_bytes)
    stream = io.BytesIO(data)

    def numbers() -> np.ndarray | None:  # not `np.load`: it allocates what the header says before it reads
        header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = header[np.lib.format.read_magic(stream)[0]](stream)
        if dtype.hasobject:
            return None
        count = math.prod(map(_size, shape))
        flat = np.frombuffer(data, dtype, count, stream.tell()) if count else np.empty(0, dtype)
        return flat.reshape(shape, order="F" if fortran else "C").copy(order="K")

    value = _guarded(".npy file", numbers)
    if value is None:
        value = load_pickle(data[stream.tell() :])
    return value.item() if isinstance(value, np.ndarray) and value.dtype == object and value.shape == () else value


def load_torch_zip(path: str | os.PathLike[str], entry: str = "state_dict") -> Any:
    """One entry of the dict in a file of `torch.save` (the zip format), tensors as numpy arrays; or UnsafeFile.

    Objects of foreign classes elsewhere in the file (a Lightning .ckpt has OmegaConf settings) are skipped unread, as
    are the tensors of the other entries.
    """

    def read() -> Any:
        with zipfile.ZipFile(path) as file:
            if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
                raise ValueError("its records are compressed")
            (folder,) = (name.removesuffix("data.pkl") for name in file.namelist() if name.endswith("/data.pkl"))
            root = _run(io.BytesIO(file.read(f"{folder}data.pkl")), skip_unknown=True, max_opcodes=MAX_ZIP_OPCODES)
            wanted = [value for key, value in root.items if key == entry]
            if root.kind != "dict" or len(wanted) != 1:
                raise ValueError(f"it has no entry {entry!r}")
            record = functools.cache(lambda key: bytearray(file.read(f"{folder}data/{key}")))
            return _Arrays(Path(path).stat().st_size, record).of(wanted[0])

    return _guarded("file of torch.save", read)


def _guarded(what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except UnsafeFile:
        raise
    except Exception as e:  # a damaged file leads the parsers of pickle, numpy and zipfile to errors of any kind
        raise UnsafeFile(f"this is not a {what}, or it is damaged: {e}") from e


def _read(source: str | os.PathLike[str] | bytes, max_bytes: int) -> bytes:
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UnsafeFile(f"the file is larger than {max_bytes:,} bytes; a head model is not")
    return data


@dataclass(slots=True, eq=False)
class _Inert:
    """A name in the file, or a call of it that does not happen, with all that the file puts into the result."""

    name: str
    kind: str | None  # None: not on the list
    args: tuple[Any, ...] | None = None  # None: the name itself
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def called(self, args: Any) -> _Inert:
        if self.kind == "reconstructor" and len(args) == 3 and args[2] is None:
            cls: _Inert = args[0]  # Python 2 writes an object as its class, the base class, and nothing
            return cls.called(())
        wrong = not isinstance(args, tuple) or self.args is not None or self.kind in ("type", "reconstructor")
        if wrong or (self.kind in _OBJECTS and args):
            raise UnsafeFile(f"the file calls {self.name} with {len(args)} arguments, as no array does; it was not run")
        return _Inert(self.name, self.kind, args)

    def __setstate__(self, state: Any) -> None:
        if self.kind not in {None, "array", "dtype", "dict"} | _OBJECTS or None in (self.args, state) or self.state:
            raise UnsafeFile(f"the file changes the inside of a {self.kind}; it was not run")
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        self.items.append(item)

    add = append


class _Reader(pickle._Unpickler):
    """The standard library's unpickler (the one in Python, whose opcodes can be replaced), making inert objects.

    Dicts and sets are inert too: they would hash their keys, which for tuples of shared tuples takes forever.
    """

    stack: list[Any]
    skip_unknown = False

    def find_class(self, module: str, name: str) -> _Inert:
        kind = _KINDS.get(f"{module}.{name}")
        if kind is None and not self.skip_unknown:
            raise UnsafeFile(f"the file asks for {module}.{name}, which is not data; it was not run")
        return _Inert(f"{module}.{name}" if kind else "a foreign object", kind)

    def persistent_load(self, pid: Any) -> _Inert:
        return _Inert("a torch storage", "persistent", (pid,))

    def load_call(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        self.stack.append(name.called(args))

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_call,
        pickle.NEWOBJ[0]: load_call,
        pickle.EMPTY_DICT[0]: lambda self: self.stack.append(_Inert("dict", "dict", ())),
        pickle.EMPTY_SET[0]: lambda self: self.stack.append(_Inert("set", "set", ())),
    }


def _run(stream: io.BytesIO, *, skip_unknown: bool = False, max_opcodes: int = MAX_OPCODES) -> Any:
    """Follow one pickle to its STOP, and leave the stream behind it."""
    start = stream.tell()
    for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in _REFUSED:
            name = f" ({str(arg).replace(' ', '.')})" if opcode.name == "INST" else ""
            raise UnsafeFile(f"the file uses the opcode {opcode.name}{name}, as no array does; it was not run")
        if count > max_opcodes:
            raise UnsafeFile(f"the file has more than {max_opcodes:,} opcodes; a head model has hundreds")
    stream.seek(start)
    reader = _Reader(stream, encoding="latin1")
    reader.skip_unknown = skip_unknown
    return reader.load()


class _Arrays:
    """Turns what `_run` gives into arrays: each object once, so shared references stay shared and cost nothing."""

    def __init__(self, file_bytes: int, record: Callable[[str], bytearray] | None = None) -> None:
        self._budget = MAX_GROWTH * file_bytes + SPARE_BYTES
        self._record = record  # key -> bytes of a storage in a torch zip
        self._done: dict[int, Any] = {}  # id -> value

    def of(self, node: Any) -> Any:
        if not isinstance(node, list | tuple | _Inert):
            return node
        if id(node) in self._done:
            if self._done[id(node)] is _Inert:
                raise ValueError("an object contains itself")
            return self._done[id(node)]
        self._done[id(node)] = _Inert
        value = self._value(node) if isinstance(node, _Inert) else type(node)(map(self.of, node))
        self._done[id(node)] = value
        return value

    def _value(self, node: _Inert) -> Any:
        if node.args is None or node.kind is None:
            raise UnsafeFile(f"the file keeps {node.name} itself as a value; that is not data")
        match node.kind, *node.args:
            case "dict", *pairs if len(pairs) <= 1:
                return {self._key(k): self.of(v) for k, v in itertools.chain(*pairs, node.items)}
            case "set", *members if len(members) <= 1:
                return set(map(self._key, itertools.chain(*members, node.items)))
            case "encode", str(text), "latin1" | "latin-1":  # how protocol 2 writes bytes
                self._spend(len(text))
                return text.encode("latin-1")
            case "dtype", code, *_:
                return _dtype(self.of(code), node.state)
            case "array", *_:
                _, shape, dtype, fortran, raw = node.state
                return self._array(shape, dtype, "F" if fortran else "C", raw)
            case "frombuffer", raw, dtype, shape, order:  # how protocol 5 writes a contiguous array
                return self._array(shape, dtype, order, raw)
            case "scalar", dtype, raw:
                return self._array((), dtype, "C", raw)[()]
            case "parameter", tensor, *_:
                return self.of(tensor)
            case "tensor", storage, offset, shape, strides, *_:
                return self._tensor(self._storage(storage), offset, shape, strides)
            case kind, *_ if kind in _OBJECTS:
                return self._object(kind, self.of(node.state))
        raise UnsafeFile(f"the file calls {node.name} with {len(node.args)} arguments, as no array does")

    def _key(self, key: Any) -> Any:
        key = self.of(key)
        if not isinstance(key, str | bytes | int | float):
            raise ValueError(f"a {type(key).__name__} as a key")
        return key

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise UnsafeFile("the arrays would take far more memory than the file; a head model's do not")

    def _array(self, shape: Any, dtype: Any, order: Any, raw: Any) -> np.ndarray:
        count, dtype = math.prod(map(_size, shape)), self.of(dtype)
        self._spend(count * dtype.itemsize)
        if dtype.hasobject:
            if not isinstance(raw, list) or len(raw) != count:
                raise ValueError(f"want {count} objects for an array of shape {shape}")
            values = np.empty(count, object)
            for i, item in enumerate(raw):  # one by one: numpy would spread an item that is itself an array
                values[i] = self.of(item)
            return values.reshape(shape, order=order)
        raw = self.of(raw)
        data = raw.encode("latin-1") if isinstance(raw, str) else memoryview(raw)
        if len(data) != count * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes for an array of shape {shape} of {dtype}")
        return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order="K")

    def _storage(self, node: Any) -> np.ndarray:
        """The flat array of a torch storage: a record of the zip, or a file of its own in the older format."""
        read = self._record
        if node.kind == "storage":  # magic, version, system, description, keys, count, numbers
            stream = io.BytesIO(self.of(node.args[0]))
            node = [_run(stream) for _ in range(5)][3]
            stream.seek(8, os.SEEK_CUR)
            read = lambda _: bytearray(stream.read())  # noqa: E731
        if node.kind != "persistent" or read is None:
            raise ValueError(f"a tensor on a {node.kind}")
        _, kind, key, _, count = node.args[0][:5]
        dtype = _STORAGES[kind.name.removeprefix("torch.").removesuffix("Storage")]
        return np.frombuffer(read(key), dtype, _size(count))

    def _tensor(self, flat: np.ndarray, offset: int, shape: Any, strides: Any) -> np.ndarray:
        shape, strides = tuple(map(_size, shape)), tuple(map(_size, strides))
        last = _size(offset) + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if 0 not in shape and last >= len(flat):
            raise ValueError(f"a tensor reaches element {last} of {len(flat)}")
        view = np.lib.stride_tricks.as_strided(flat[offset:], shape, [s * flat.itemsize for s in strides])
        if self._record is not None:
            return view  # of a record that is in memory once
        self._spend(view.nbytes)
        return view.copy()

    def _object(self, kind: str, state: dict[str, Any]) -> Any:
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
        shape = tuple(map(int, state["_shape"]))
        names = ("row", "col") if kind == "coo" else ("indices", "indptr")
        columns = state["coords"] if "coords" in state else [state[name] for name in names]
        parts = [_array_of(part) for part in (state["data"], *columns)]
        if len(shape) != 2 or min(shape) < 0 or any(part.ndim != 1 or part.dtype.kind not in "biuf" for part in parts):
            raise ValueError(f"a sparse matrix of shape {shape}")
        from scipy import sparse  # a tenth of a second, and the open head needs none

        self._spend(math.prod(shape) * parts[0].itemsize)  # as if it were dense: it is going to be
        self._spend(2 * sum(part.nbytes for part in parts) + 8 * shape[0])  # scipy may copy and widen indices
        if kind == "coo":
            return sparse.coo_matrix((parts[0], tuple(parts[1:])), shape)  # checks its indices itself
        matrix = getattr(sparse, f"{kind}_matrix")(tuple(parts), shape)
        matrix.check_format(full_check=True)  # an index out of range would read foreign memory when made dense
        return matrix


def _array_of(value: Any) -> np.ndarray:
    """An array or a number. Lists are refused: numpy would write out each list that is named many times."""
    if not isinstance(value, np.ndarray | np.generic | int | float):
        raise ValueError(f"a {type(value).__name__} in place of an array")
    return np.asarray(value)


def _size(n: Any) -> int:
    if type(n) is not int or not 0 <= n < 2**63:
        raise ValueError(f"{n if isinstance(n, int) else type(n).__name__} as a size")
    return n


def _dtype(code: Any, state: Any) -> np.dtype:
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    order, *names = state[1:4] if isinstance(state, tuple) else ("=",)
    if not isinstance(code, str) or not _CODE.fullmatch(code) or order not in ("<", ">", "|", "=") or any(names):
        raise ValueError(f"the element type {code!r}")
    return np.dtype(object if code[0] == "O" else code).newbyteorder(order)
