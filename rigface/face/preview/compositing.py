"""Compositing of an edited crop into its image, fading out towards the crop's border.

Path: edited crop -> paste_crop -> the whole image. The counterpart of `alignment.crop`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from rigface.face.geometry import alignment
from rigface.face.rendering.jit import compiled
from rigface.types import CROP_PX

FEATHER = 0.08  # of the crop's side, over which an edit fades into the frame around it


def paste_crop(
    image: np.ndarray, crop: np.ndarray, frame_to_crop: np.ndarray, where: np.ndarray | None = None
) -> np.ndarray:
    """The picture (H, W, 3) uint8 with an edited crop (S, S, 3) uint8 back in its place.

    A pixel that the edit did not change stays what it was to the bit, and a picture without colour stays without. The
    affine (2, 3) is for a crop of 512 px; `where` (S, S) uint8 says how much of the crop may show.
    """
    to_frame = alignment.invert(frame_to_crop).astype(np.float64)
    x0, y0 = to_frame[:, 2]
    side = CROP_PX * to_frame[0, 0]
    left, top, size = round(x0), round(y0), round(side)
    if size < 2 or min(top + size, len(image)) <= max(top, 0) or min(left + size, image.shape[1]) <= max(left, 0):
        return image
    patch: np.ndarray = crop
    if size != len(crop):
        patch = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if size < len(crop) else cv2.INTER_CUBIC)
    around = image[max(top, 0) : top + size, max(left, 0) : left + size]
    if all(np.ptp(part, axis=2).max() == 0 for part in (around[::16, ::16], around)):  # few pixels settle most
        patch = cv2.cvtColor(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    edge = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (FEATHER * size)
    ramp = np.clip(edge, 0, 1).astype(np.float32)
    shown: np.ndarray = np.zeros((0, 0), np.uint8)
    if where is not None:
        shown = cv2.resize(where, (size, size), interpolation=cv2.INTER_LINEAR)
    out = image.copy()
    compiled(_blend)(out, np.ascontiguousarray(patch), ramp, shown, top, left)
    return out


def _blend(out: Any, patch: Any, ramp: Any, shown: Any, top: int, left: int) -> None:
    """`patch` (S, S, 3) uint8 into `out` (H, W, 3) uint8 at `top`, `left`, which may lie outside. Compiled by numba.

    `ramp` (S,) float32 says how much of a row or column shows, `shown` (S, S) uint8 of each pixel; or it is (0, 0).
    """
    size = len(patch)
    masked = len(shown) > 0
    for j in range(max(-top, 0), min(size, out.shape[0] - top)):
        for i in range(max(-left, 0), min(size, out.shape[1] - left)):
            most: Any = 0
            for c in range(3):
                most = max(most, abs(np.int32(patch[j, i, c]) - np.int32(out[top + j, left + i, c])))
            if most < 2:  # an unchanged pixel may not change by rounding either
                continue
            alpha = ramp[j] * ramp[i]
            if masked:
                alpha *= np.float32(shown[j, i]) * np.float32(1 / 255)
            for c in range(3):
                old = np.float32(out[top + j, left + i, c])
                out[top + j, left + i, c] = np.uint8(old + alpha * (np.float32(patch[j, i, c]) - old) + np.float32(0.5))
