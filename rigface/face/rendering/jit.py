"""JIT compilation of pixel loops by numba, cached on disk.

Path: `rasterizer.py`, `pixel_kernel.py` and `compositing.py` -> here. Numba is imported at the first use, not with
the module.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, cast


@cache
def compiled(loop: Callable[..., None], **options: Any) -> Callable[..., None]:
    """Compile a loop: from the disk in milliseconds, or in a few seconds. The result releases the GIL.

    Where several processes call it for the first time at once, one compiles, and the others wait and read its result.
    """
    from numba import njit

    machine_code: Any
    try:
        machine_code = njit(cache=True, nogil=True, error_model="numpy", **options)(loop)
    except RuntimeError:  # neither beside the loop's file nor in the user's cache folder may be written
        machine_code = njit(nogil=True, error_model="numpy", **options)(loop)
        return cast(Callable[..., None], machine_code)
    lock = Path(machine_code.stats.cache_path, f"{loop.__module__}.{loop.__name__}.lock")
    first = Lock()

    def call(*arguments: Any) -> None:
        if not machine_code.signatures:
            with first, _held(lock):
                machine_code(*arguments)
        else:
            machine_code(*arguments)

    return call


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock among processes, where the file system has locks. A process that ends gives it up."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
