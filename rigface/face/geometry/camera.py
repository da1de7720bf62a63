"""The weak-perspective camera: head points to the crop, and the crop's two coordinate systems.

Path: `Head.vertices` and FaceParams.camera -> project -> to_crop_px -> `rasterizer.py`.
Source: DECA (Feng et al., SIGGRAPH 2021, section 3): x_2D = s * (Pi x_3D + t), Pi drops z, the crop spans [-1, 1].

Two frames (see `rigface.types`): *crop unit*, x right, y up, z towards the viewer; and *crop px*, x right, y down, z
away from the viewer, all three in pixels, so that a smaller z is nearer. Either is a right-handed frame.
Deviates: DECA's own functions return y and z flipped, still in [-1, 1]; that is `crop unit` times (1, -1, -1).

Every function takes numpy arrays or torch tensors and returns the same.
"""

from typing import Any

from rigface.types import CROP_PX

Array = Any  # numpy.ndarray or torch.Tensor, the same in and out


def project(points: Array, camera: Array) -> Array:
    """Head points (..., V, 3) in the crop: crop unit of the same shape; z is scaled like x and y and not shifted.

    Points are in metres, in the camera frame (a posed head): x to the person's left, y up, z to the viewer. The camera
    (..., 3) is scale in 1/m, then x and y in metres.
    """
    shift = camera[..., None, 1:] @ _like(((1, 0, 0), (0, 1, 0)), camera)
    return camera[..., None, :1] * (points + shift)


def to_crop_px(unit: Array, size: int = CROP_PX) -> Array:
    """Crop unit (..., 2 or 3) to crop px: (-1, 1) is the upper left corner (0, 0), z turns away from the viewer."""
    axes = unit.shape[-1]
    return unit * _like((1, -1, -1)[:axes], unit) * (size / 2) + _like((size / 2, size / 2, 0)[:axes], unit)


def _like(values: tuple[Any, ...], array: Array) -> Array:
    if hasattr(array, "new_tensor"):
        return array.new_tensor(values)
    import numpy as np

    return np.asarray(values, array.dtype)
