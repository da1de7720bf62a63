"""Crop alignment: the square around a face, and the affine from frame to crop.

Path: Detection.box (frame px) -> frame_to_crop -> crop (512 px) -> everything downstream; `invert` leads back.

The rule, for a landmark box w x h with side = max(w, h): a square of 1.9 side, centred on the box's centre moved up
by 0.1 side, no rotation. The landmarks end at the hairline and the chin, so this leaves 0.55 side for the hair above
and 0.35 side for the neck below. On 179 portraits it cuts tall hats, long hair and nothing else of the head. The
square is moved to whole pixels of the frame (by half a pixel at most), because cutting is then a slice and a resize,
three times faster than a warp; the affine has its true position, so nothing downstream is off by that half.
Deviates: upstream cuts by the width alone, so an open mouth or a tilted head leaves the crop.

Conventions: pixel coordinates are continuous, the middle of the first pixel is (0.5, 0.5), in frame and crop alike.
Only `crop` uses OpenCV's integer-centred coordinates. An affine is (2, 3) float32: out = A[:, :2] @ (x, y) + A[:, 2].
"""

from math import sqrt

import cv2
import numpy as np

from rigface.types import CROP_PX

SIDE = 1.9  # of the larger side of the landmark box
RAISE = 0.1  # of the same, upwards
HALVE_FROM = 1.5  # shrinking by more is halved by averaging first; below it bilinear sampling shows no aliasing


def frame_to_crop(box: np.ndarray, size: int = CROP_PX) -> np.ndarray:
    """The affine (2, 3) float32 from frame px to crop px: one scale for x and y, a shift, no rotation.

    `box` (4,) is x0, y0, x1, y1 of the landmarks, frame px; `size` is the side of the crop, px. ValueError if the box
    is empty or not finite.
    """
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    if not (np.isfinite([x0, y0, x1, y1]).all() and x1 > x0 and y1 > y0):
        raise ValueError(f"box: want x0 < x1 and y0 < y1, got {np.asarray(box).tolist()}")
    larger = max(x1 - x0, y1 - y0)
    step = 2 ** _halvings(SIDE * larger / size)  # a square of this many pixels can be halved that often
    side = max(round(SIDE * larger / step), 1) * step
    left = round((x0 + x1 - side) / 2)
    top = round((y0 + y1 - side) / 2 - RAISE * larger)
    scale = size / side
    return np.array([[scale, 0, -scale * left], [0, scale, -scale * top]], np.float32)


def crop(image: np.ndarray, frame_to_crop: np.ndarray, size: int = CROP_PX) -> np.ndarray:
    """The picture through the affine, (size, size[, 3]) uint8; outside the frame its border is repeated.

    The image is (H, W, 3) or (H, W) uint8. Another similarity than `frame_to_crop()` returns takes the slower warp.
    Shrinking is antialiased, enlarging is bilinear.
    """
    affine = np.asarray(frame_to_crop, np.float64)
    (a, b, x), (c, d, y) = affine.tolist()
    if not (area := abs(a * d - b * c)):
        raise np.linalg.LinAlgError("a crop of no size")
    times = _halvings(1 / sqrt(area))
    if b == c == 0 and a == d > 0:  # plain numbers: arrays of four corners take as long as the resize
        ends = -x / a, -y / a, (size - x) / a, (size - y) / a
        left, top, right, bottom = whole = [round(end) for end in ends]
        is_whole = max(abs(end - k) for end, k in zip(ends, whole)) < 0.02
        if is_whole and right > left and (right - left) % 2**times == 0:
            part = _halved(_cut(image, left, top, right, bottom), times)
            return cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)

    corners = apply(invert(affine), np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64))
    margin = 2 ** (times + 1)  # what bilinear sampling and the averaging can reach beyond the square
    x0, y0 = np.floor(corners.min(0)).astype(int) - margin
    columns, rows = -(-(np.ceil(corners.max(0)).astype(int) + margin - (x0, y0)) // 2**times) * 2**times
    part = _halved(_cut(image, x0, y0, x0 + columns, y0 + rows), times)
    to_crop = compose(affine, np.array([[2.0**times, 0, x0], [0, 2.0**times, y0]]))
    to_crop[:, 2] += to_crop[:, :2] @ (0.5, 0.5) - 0.5  # pixel centres are at k + 0.5 here and at k in OpenCV
    return cv2.warpAffine(part, to_crop, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _halvings(shrink: float) -> int:
    """Number of halvings before bilinear sampling, which is left a factor of 0.75 to 1.5."""
    return max(int(np.ceil(np.log2(shrink / HALVE_FROM))), 0)


def _halved(image: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return image


def _cut(image: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """A rectangle of the frame, a view if it lies inside; outside, the frame's border is repeated."""
    height, width = image.shape[:2]
    left, right = (min(max(x, 0), width - 1) for x in (x0, x1 - 1))
    top, bottom = (min(max(y, 0), height - 1) for y in (y0, y1 - 1))
    inside = image[top : bottom + 1, left : right + 1]
    if (left, top, right, bottom) == (x0, y0, x1 - 1, y1 - 1):
        return inside
    before_x, after_x = min(max(-x0, 0), x1 - x0 - 1), max(x1 - 1 - max(right, x0), 0)
    before_y, after_y = min(max(-y0, 0), y1 - y0 - 1), max(y1 - 1 - max(bottom, y0), 0)
    return cv2.copyMakeBorder(inside, before_y, after_y, before_x, after_x, cv2.BORDER_REPLICATE)


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points through the affine (2, 3), in their own shape and dtype.

    Points are (..., 2) x, y, or (..., 3) x, y, z: then z is scaled as x and y are and not shifted.
    """
    affine, points = np.asarray(affine), np.asarray(points)
    out = points[..., :2] @ affine[:, :2].T + affine[:, 2]
    if points.shape[-1] == 3:
        scale = np.sqrt(abs(np.linalg.det(affine[:, :2].astype(np.float64))))
        out = np.concatenate([out, points[..., 2:] * scale], axis=-1)
    return np.asarray(out.astype(points.dtype, copy=False))


def invert(affine: np.ndarray) -> np.ndarray:
    """The affine that leads back, (2, 3), in the dtype it came in; LinAlgError if it is singular."""
    affine = np.asarray(affine)
    linear = np.linalg.inv(affine[:, :2].astype(np.float64))
    return np.concatenate([linear, -linear @ affine[:, 2:].astype(np.float64)], axis=1).astype(affine.dtype)


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """One affine (2, 3) that does `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    return np.concatenate([linear, second[:, :2] @ first[:, 2:] + second[:, 2:]], axis=1)
