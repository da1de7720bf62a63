"""Run native code that may crash or hang in a child process.

Path: a stage, or `video/sandbox.py` -> `WorkerProcess(...)(argument)` -> the same call in a child process. A decoder
that takes its process down on a hostile file takes down the child; the parent gets `WorkerDied` (how, and at which
step) and starts a new child.

`concurrent.futures` does not do: its children import the parent's main module, which in a Ray worker is Ray itself (a
second and 100 MB each), and its timeout is for the whole call. Here the child notes when it begins a step, so that a
long video passes and a silent child is stopped. The note lies in memory that both share: a message for each step of
each frame would wake the parent. `pipelines/telemetry/worker_process.py` has one that also sends its metrics.

The child ends when its parent does, however that ends. It does not get the parent's secrets: of the environment it sees
`WorkerProcess.kept` alone. Nor is it believed: what it sends is numbers, texts, arrays, and the dataclasses and
exceptions of this project; anything else that a hostile file might make it send is refused unread.
"""

import contextlib
import fcntl
import importlib
import io
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

from rigface.host_environment import spare_imports

START_S = 180.0
NOTE_BYTES = 64  # of the memory for the present step: how many began so far (8 bytes), and its name
_PACKAGES = ("rigface", "pipelines", "serve")
_ARRAYS = {"_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype"}  # names of numpy that arrays are made of


class WorkerDied(Exception):
    """The child crashed or was stopped because it hung.

    `how` is `SIGSEGV`, `exit code 1`, or `no progress for 120 s`, `step` the last one it reported.
    """

    def __init__(self, how: str, step: str) -> None:
        super().__init__(f"{how} during {step or 'start'}")
        self.how = how
        self.step = step


class WorkerProcess:
    """A class instance in a child process.

    Args:
        target: `package.module:Class`, importable there. Its instances are called with (argument, begin), where
            `begin(step)` reports the step that comes next, and with a file if there is one.
        kwargs: for the class.
        silence_s: longest time without a report; noticed up to a quarter later.
    """

    module = "rigface.worker_process"  # runs as the child
    kept: tuple[str, ...] = (
        *("PATH", "HOME", "LANG", "LC_", "TZ", "TMPDIR", "LD_", "PYTHON", "MALLOC_", "CUDA_", "NVIDIA_", "NUMBA_"),
        *("RIGFACE_ASSETS", "RIGFACE_CACHE"),
    )  # beginnings of the names of environment variables that the child gets

    def __init__(self, target: str, kwargs: dict[str, Any], silence_s: float) -> None:
        self.silence_s = silence_s
        self._start = (target, kwargs)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._note: mmap.mmap | None = None
        self._ready = False
        self._lock = threading.Lock()  # one call at a time

    def start(self) -> None:
        """Start the child, if it is not there, without waiting for it."""
        if self._process is not None:
            return
        parent_end, child_end = socket.socketpair()
        note = os.memfd_create("step", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(note, NOTE_BYTES)
        fcntl.fcntl(note, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)  # or a child could crash us
        self._note = mmap.mmap(note, NOTE_BYTES)
        environment = {name: value for name, value in os.environ.items() if name.startswith(self.kept)}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.module, str(child_end.fileno()), str(os.getpid()), str(note)],
                pass_fds=[child_end.fileno(), note],
                stdin=subprocess.DEVNULL,
                env=environment,
                process_group=0,  # Ctrl-C is for the parent, with which it ends
            )
        os.close(note)
        self._pipe, self._ready = Connection(parent_end.detach()), False
        self._pipe.send(self._start)

    def wait_ready(self) -> None:
        """Wait until the class is built; raises what its constructor raised.

        RuntimeError if it died or hung there, before any input.
        """
        self.start()
        if not self._ready:
            try:
                self._receive(START_S)
            except WorkerDied as e:
                raise RuntimeError(f"{self._start[0]} could not be started in a child process: {e.how}") from e
            except Exception:  # of the constructor, with which the child ends
                self.close()
                raise
            self._ready = True

    def __call__(self, argument: Any, file: BinaryIO | None = None) -> Any:
        """The result of the call in the child, or what it raised; WorkerDied if it crashed or hung: call again."""
        with self._lock:
            self.wait_ready()
            assert self._pipe is not None and self._note is not None  # noqa: PT018
            self._note[:] = bytes(NOTE_BYTES)
            try:
                self._pipe.send((argument, file is not None))
                if file is not None:
                    reduction.send_handle(self._pipe, file.fileno(), None)
            except OSError:  # it died between two calls
                raise self._died(None) from None
            return self._receive(self.silence_s)

    def close(self) -> None:
        """Stop the child."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None:
            process.kill()
            process.wait()
        if pipe is not None:
            with contextlib.suppress(OSError):  # native code of others has been seen to close numbers that it lost
                pipe.close()

    def on_message(self, message: Any) -> None:
        """Handle a message of the child beside its answers; does nothing here."""

    def _receive(self, silence_s: float) -> Any:
        assert self._pipe is not None
        while True:
            try:
                if self._is_silent(silence_s):
                    raise self._died(f"no progress for {silence_s:g} s")
                message = self._pipe.recv_bytes()
            except (EOFError, ConnectionResetError):
                raise self._died(None) from None
            except KeyboardInterrupt:
                self.close()  # its answer must not be taken for that to the next call
                raise
            try:
                kind, value = _PlainReader(io.BytesIO(message)).load()
            except Exception as e:  # a message that is not as `_serve` writes it may raise anything
                raise self._died(f"unreadable answer ({e})") from None
            if kind == "message":
                self.on_message(value)
            elif kind == "raise":
                error, text = value
                error.add_note(f"in the child process:\n{text}")  # here, because notes do not survive pickling
                raise error
            else:
                return value

    def _is_silent(self, silence_s: float) -> bool:
        """Wait for a message; True if for so long neither one came nor a step began."""
        assert self._pipe is not None and self._note is not None  # noqa: PT018
        before, quarters = self._note[:], 0
        while quarters < 4 and not self._pipe.poll(silence_s / 4):
            now = self._note[:]
            before, quarters = now, quarters + 1 if now == before else 0
        return quarters == 4

    def _died(self, how: str | None) -> WorkerDied:
        assert self._process is not None and self._note is not None  # noqa: PT018
        step = self._note[8:].rstrip(b"\0").decode(errors="replace")
        if how is None:
            try:
                code = self._process.wait(5)
            except subprocess.TimeoutExpired:
                code = -signal.SIGKILL
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.close()
        return WorkerDied(how, step)


class _PlainReader(pickle.Unpickler):
    """Reads messages of a child that may have been taken over by the file it reads."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of a value, if it is one of those that a child may send."""
        if module.partition(".")[0] == "numpy" and name in _ARRAYS:
            return super().find_class(module, name)
        found = super().find_class(module, name) if module.partition(".")[0] in (*_PACKAGES, "builtins") else None
        if not _is_plain(found):
            raise pickle.UnpicklingError(f"{module}.{name} is no data")
        return found


def _is_plain(kind: Any) -> bool:
    """True for classes without effects: those of data and exceptions, of this project or Python itself."""
    if not isinstance(kind, type) or kind.__module__.partition(".")[0] not in (*_PACKAGES, "builtins"):
        return False
    return (
        kind in (set, frozenset, bytearray, complex) or is_dataclass(kind) or issubclass(kind, Exception | Enum | tuple)
    )


def _serve(pipe: Connection, note: mmap.mmap, listen: Callable[[Callable[[Any], None]], None] | None) -> None:
    """The child's side: build the class, then answer calls until the parent hangs up."""
    begun = 0

    def begin(step: str) -> None:
        nonlocal begun
        begun += 1
        note[:] = begun.to_bytes(8) + step.encode()[: NOTE_BYTES - 8].ljust(NOTE_BYTES - 8, b"\0")

    lock = threading.Lock()  # threads of the worker send, too

    def send(kind: str, value: Any) -> None:
        with lock:
            pipe.send((kind, value))

    target, kwargs = pipe.recv()
    if listen is not None:
        listen(lambda message: send("message", message))
    module, _, name = target.partition(":")
    try:
        worker = getattr(importlib.import_module(module), name)(**kwargs)
    except Exception as e:
        send("raise", _portable(e))
        return
    send("ready", None)
    while True:
        argument, has_file = pipe.recv()
        files = [os.fdopen(reduction.recv_handle(pipe), "rb")] if has_file else []
        try:
            answer = ("done", worker(argument, begin, *files))
        except Exception as e:  # the caller knows which exceptions are data errors
            answer = ("raise", _portable(e))
        send(*answer)


def _portable(error: Exception) -> tuple[Exception, str]:
    """An exception that the parent reads, of the nearest class that it knows, and its traceback."""
    text = "".join(traceback.format_exception(error))
    kind = next(kind for kind in type(error).__mro__ if _is_plain(kind))
    if isinstance(error, OSError) and error.errno is not None:  # of FFmpeg, for example
        error = OSError(error.errno, error.strerror, error.filename)
    elif kind is not type(error):
        error = (kind if kind is not Exception else RuntimeError)(f"{type(error).__name__}: {error}")
    try:
        _PlainReader(io.BytesIO(pickle.dumps(error))).load()
    except Exception:  # a class that cannot be pickled: any error may come out of that
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error, text


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def run(listen: Callable[[Callable[[Any], None]], None] | None = None) -> None:
    """Be the child that the command line asks for; `listen` gets a function that sends the parent a message."""
    spare_imports()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ray sends it to all below a job that it stops
    threading.Thread(target=_leave_with, args=(int(sys.argv[2]),), daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):  # the parent is gone, or hung up
        _serve(Connection(int(sys.argv[1])), mmap.mmap(int(sys.argv[3]), NOTE_BYTES), listen)


if __name__ == "__main__":
    run()
