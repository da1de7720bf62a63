"""Interpreter of pickle opcodes that never calls anything.

Path: a file -> `safe_pickle.load_pickle` -> run_pickle -> inert objects -> arrays (`safe_pickle.py`).
Source: the opcodes as the standard library's `pickletools` documents them; no part of `pickle` runs here.

A pickle is a program whose one dangerous step is calling what it names. Here a global becomes an `InertGlobal` if it
is in ALLOWED, and the file is refused otherwise; a call becomes an `InertCall` with its arguments. Nothing
is imported, and no function or class that the file names is ever called.
"""

from __future__ import annotations

import io
import pickletools
from typing import Any

from rigface.errors import UnsafeFile

MAX_OPCODES = 100_000  # a head model needs some hundreds; one opcode of a byte makes an object of up to 216 bytes

_SPARSE = ("csc_matrix", "csr_matrix", "coo_matrix")
_STORAGE = dict(Float="f4", Double="f8", Half="f2", Long="i8", Int="i4", Short="i2", Char="i1", Byte="u1", Bool="?")

# (module, name) -> kind. Everything else is refused.
ALLOWED: dict[tuple[str, str], str] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "array" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    ("numpy._core.numeric", "_frombuffer"): "frombuffer",
    ("numpy.core.numeric", "_frombuffer"): "frombuffer",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{(f"scipy.sparse.{m}{n[:3]}", n): n[:3] for n in _SPARSE for m in ("", "_")},
    ("chumpy.ch", "Ch"): "Ch",
    ("chumpy.reordering", "Select"): "Select",
    ("chumpy.reordering", "Reshape"): "Reshape",
    **{(m, "set"): "set" for m in ("__builtin__", "builtins")},
    **{(m, "object"): "object" for m in ("__builtin__", "builtins")},
    **{(m, "_reconstructor"): "reconstructor" for m in ("copy_reg", "copyreg")},
    ("_codecs", "encode"): "encode",
    ("collections", "OrderedDict"): "dict",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch.storage", "_load_from_bytes"): "storage",
    **{("torch", f"{n}Storage"): f"storage:{d}" for n, d in _STORAGE.items()},
}
CONTAINERS = {"csc", "csr", "coo", "Ch", "Select", "Reshape"}  # made by NEWOBJ or _reconstructor, filled by BUILD
_DATA = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"),
    *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
UNSET = object()


class InertGlobal:
    """A global that the file mentions: its name alone, never imported."""

    def __init__(self, module: str, name: str) -> None:
        if (module, name) not in ALLOWED:
            raise UnsafeFile(f"the file asks for {module}.{name}, which is not data; it was not run")
        self.kind, self.name = ALLOWED[module, name], f"{module}.{name}"


class InertCall:
    """A call in the file, not executed: its kind, the arguments, and the state given to it later."""

    def __init__(self, kind: str, args: tuple[Any, ...]) -> None:
        self.kind, self.args, self.state = kind, args, UNSET


def run_pickle(stream: io.BytesIO) -> Any:
    """Follow one pickle to its STOP, and leave the stream behind it."""
    encodable = stream.getbuffer().nbytes  # what `_codecs.encode` may make in all: a text can be named many times
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = marks.pop()
        items = stack[at:]
        del stack[at:]
        return items

    for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        if count > MAX_OPCODES:
            raise UnsafeFile(f"the file has more than {MAX_OPCODES:,} opcodes; a head model has hundreds")
        op = opcode.name
        if op in _DATA:
            stack.append(arg)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op == "MARK":
            marks.append(len(stack))
        elif op in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}[op]())
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(op[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif op == "TUPLE":
            stack.append(tuple(since_mark()))
        elif op == "LIST":
            stack.append(since_mark())
        elif op == "DICT":
            stack.append(_fill({}, since_mark()))
        elif op in ("APPEND", "APPENDS"):
            items = [stack.pop()] if op == "APPEND" else since_mark()
            expect(stack[-1], list, op).extend(items)
        elif op in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if op == "SETITEM" else since_mark()
            _fill(expect(stack[-1], dict, op), items)
        elif op == "ADDITEMS":
            items = since_mark()
            expect(stack[-1], set, op).update(map(_key, items))
        elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(str(arg))] = stack[-1]
        elif op == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(str(arg))])
        elif op == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            since_mark()
        elif op == "DUP":
            stack.append(stack[-1])
        elif op == "GLOBAL":
            stack.append(InertGlobal(*str(arg).split(" ", 1)))
        elif op == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(InertGlobal(expect(module, str, op), expect(name, str, op)))
        elif op in ("REDUCE", "NEWOBJ"):
            args, name = stack.pop(), stack.pop()
            make = _reduce if op == "REDUCE" else _new
            value = make(expect(name, InertGlobal, op), expect(args, tuple, op))
            encodable -= len(value) if isinstance(value, bytes) else 0
            if encodable < 0:
                raise UnsafeFile("the texts would take more memory than the file; a head model's do not")
            stack.append(value)
        elif op == "BUILD":
            state, call = stack.pop(), expect(stack[-1], InertCall, op)
            if call.kind not in CONTAINERS | {"array", "dtype"} or call.state is not UNSET:
                raise UnsafeFile(f"the file changes the inside of a {call.kind}; it was not run")
            call.state = state
        elif op == "BINPERSID":
            stack.append(InertCall("persistent", (stack.pop(),)))
        elif op == "STOP":
            return stack.pop()
        elif op not in ("PROTO", "FRAME"):
            name = f" ({str(arg).replace(' ', '.')})" if op == "INST" else ""
            raise UnsafeFile(f"the file uses the opcode {op}{name}, which plain arrays do not need; it was not run")
    raise ValueError("it has no STOP opcode")


def expect(value: Any, kind: Any, op: str) -> Any:
    """Return `value` if it is of that kind; else refuse the file, naming `op`."""
    if not isinstance(value, kind):
        want = getattr(kind, "__name__", str(kind)).strip("_")
        raise UnsafeFile(f"{op} is applied to a {type(value).__name__}, want {want}; it was not run")
    return value


def _key(key: Any) -> Any:
    if not isinstance(key, str | bytes | int | float):
        raise ValueError(f"a {type(key).__name__} as a key")
    return key


def _pair(pair: Any) -> Any:
    if len(expect(pair, list | tuple, "OrderedDict")) != 2:
        raise ValueError(f"a key and a value of {len(pair)} items")
    return pair


def _fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
    return target


def _new(name: InertGlobal, args: tuple[Any, ...]) -> InertCall:
    if name.kind not in CONTAINERS or args:
        raise UnsafeFile(f"the file makes a {name.name} from {len(args)} arguments; it was not run")
    return InertCall(name.kind, ())


def _reduce(name: InertGlobal, args: tuple[Any, ...]) -> Any:
    """Stand-in for a call of an allowed name. The call itself does not happen."""
    kind = name.kind
    if kind == "reconstructor" and len(args) == 3 and isinstance(args[0], InertGlobal) and args[2] is None:
        return _new(args[0], ())
    if kind == "encode" and len(args) == 2 and args[1] in ("latin1", "latin-1") and isinstance(args[0], str):
        return args[0].encode("latin-1")
    if kind == "set" and len(args) <= 1:
        return set(map(_key, expect(args[0], list, "set"))) if args else set()
    if kind == "dict" and len(args) <= 1:
        pairs = expect(args[0], list, "OrderedDict") if args else []
        return _fill({}, [x for pair in pairs for x in _pair(pair)])
    if kind in ("array", "frombuffer", "dtype", "scalar", "tensor", "storage"):
        return InertCall(kind, args)
    raise UnsafeFile(
        f"the file calls {name.name} with {len(args)} arguments, which plain arrays do not need; it was not run"
    )
