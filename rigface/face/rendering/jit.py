"""JIT compilation of pixel loops by numba, cached on disk.

Path: `rasterizer.py`, `pixel_kernel.py` and `compositing.py` -> here. Numba is imported at the first use, not with
the module.
"""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(loop: Callable[..., None], **options: Any) -> Callable[..., None]:
    """Compile a loop: from the disk in milliseconds, or in a few seconds. The result releases the GIL."""
    from numba import njit

    machine_code: Callable[..., None]
    try:
        machine_code = njit(cache=True, nogil=True, error_model="numpy", **options)(loop)
    except RuntimeError:  # neither beside the loop's file nor in the user's cache folder may be written
        machine_code = njit(nogil=True, error_model="numpy", **options)(loop)
    return machine_code
