"""Number format of the networks' arithmetic: bfloat16 if the device multiplies in it, else float32.

Path: a config's or a pipeline's setting -> `autocast_dtype` -> torch.autocast in training, validation and sampling.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

NumberFormat = Literal["auto", "bfloat16", "float32"]


def autocast_dtype(number_format: NumberFormat, device: torch.device) -> torch.dtype | None:
    """The type to compute in, None for float32.

    "auto" is bfloat16 on a device that multiplies in it. Without hardware support it is many times slower than float32.
    """
    if number_format == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else None
    return torch.bfloat16 if number_format == "bfloat16" else None


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[object]:
    """torch.autocast in a type, or nothing for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def multiplies_bfloat16(device: torch.device) -> bool:
    """True if the device has hardware for products of bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("bf16"))
