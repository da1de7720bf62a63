"""Numbers that an encoder reads off a crop, in the layout of FLAME."""

from dataclasses import dataclass

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
