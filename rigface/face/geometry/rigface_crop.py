"""RigFace's own crop of a photograph, by the box of SCRFD.

Path: Detection.finder_box (frame px) -> `rigface_frame_to_crop` -> `rigface_photo`, for the profile's crop `rigface`.
Frame px and crop px are those of `rigface.types`. Free of torch: the detect stage of `extract` imports it.
"""

import cv2
import numpy as np

from rigface.types import CROP_PX

_PHOTO_WIDTHS, _PHOTO_PX = 1.5, 352  # a square of this many box widths becomes this many pixels of the crop


def rigface_frame_to_crop(box: np.ndarray) -> np.ndarray:
    """RigFace's affine (2, 3) float32 from frame px to its 512 px crop, for SCRFD's box x0, y0, x1, y1.

    The square has 1.5 box *widths*, also if the box is higher than wide, and becomes the middle 352 px. ValueError if
    the box is empty or not finite.
    """
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    if not (np.isfinite([x0, y0, x1, y1]).all() and x1 > x0 and y1 > y0):
        raise ValueError(f"box: want x0 < x1 and y0 < y1, got {np.asarray(box).tolist()}")
    scale = _PHOTO_PX / (_PHOTO_WIDTHS * (x1 - x0))
    middle = np.array([x0 + x1, y0 + y1]) / 2
    shift = CROP_PX / 2 + 0.5 - scale * (middle + 0.5)  # the rule is about whole-numbered pixel centres
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)


def rigface_photo(image: np.ndarray, frame_to_crop: np.ndarray) -> np.ndarray:
    """RigFace's crop (512, 512, 3) uint8 of an image (H, W, 3) uint8: bilinear, black outside."""
    affine = np.asarray(frame_to_crop, np.float64).copy()
    affine[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV's pixel centres are whole numbers
    return cv2.warpAffine(image, affine, (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR)
