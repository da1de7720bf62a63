"""Loops over pixels as machine code, compiled by numba at the first call and kept on the disk for the next process.

Path: `raster.py`, `paint.py` and `paste.py` -> here. Numba is imported at the first use, not with the module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(loop: Callable[..., None], **options: Any) -> Callable[..., None]:
    """The loop as machine code: from the disk in milliseconds, or compiled in a few seconds. It lets other threads run."""
    from numba import njit

    machine_code: Callable[..., None]
    try:
        machine_code = njit(cache=True, nogil=True, error_model="numpy", **options)(loop)
    except RuntimeError:  # neither beside the loop's file nor in the user's cache folder may be written
        machine_code = njit(nogil=True, error_model="numpy", **options)(loop)
    return machine_code
