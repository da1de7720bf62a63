"""Numbers that an encoder reads off a crop, in the layout of FLAME."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FlameCodes:
    """FLAME coefficients of N crops, float32, as a network gives them."""

    shape: Tensor  # (N, S) standard deviations
    expression: Tensor  # (N, 50) standard deviations
    head_rotation: Tensor  # (N, 3) axis-angle, rad, head to camera
    jaw_rotation: Tensor  # (N, 3) axis-angle, rad, relative to the head
    camera: Tensor  # (N, 3) scale, x, y over the crop that was read, which spans [-1, 1], y up
    texture: Tensor | None = None  # (N, 50) coefficients of FLAME's texture space; None: the network has none
    light: Tensor | None = None  # (N, 9, 3) harmonics, order and factors of `lighting.py`; None: the network has none
    eyelids: Tensor | None = None  # (N, 2) left, right, 0 open to 1 closed; None: the network has none

    @classmethod
    def joined(cls, parts: "Sequence[FlameCodes]") -> "FlameCodes":
        """The codes of all crops of several batches, at least one."""
        joined: dict[str, Any] = {}
        for f in fields(cls):
            values = [getattr(part, f.name) for part in parts]
            joined[f.name] = None if values[0] is None else torch.cat(values)
        return cls(**joined)
