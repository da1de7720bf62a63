"""Matte of a person from a coarse probability: soft edges that follow hair, for about 8 ms at 512 px.

Path: `networks/selfie_segmentation.py`, `segmentation.head_share` -> matte -> `Face.mask`.
Source: the guided filter with a guide in colour (He, Sun and Tang, ECCV 2010, equations 17-19) in its fast form (He and
Sun, 2015): coefficients are found at 128 px and enlarged. It answers a matting equation near the given one: in a small
window the matte is an affine function of the colours.
"""

import cv2
import numpy as np

from rigface.image import resized

COARSE_PX = 128
REACH = 3  # px of the coarse picture: half the side of a window
SMOOTH = 1e-4  # epsilon of the filter, on colours in [0, 1]
HAZE = 0.12  # of the filter's answer, that is noise around 0 and around 1
BAND = (0.02, 0.035)  # of the side: how far inwards and outwards the filter may move the edge


def matte(person: np.ndarray, crop: np.ndarray, size: int) -> np.ndarray:
    """(size, size) uint8, 255 on the person, in between at soft edges.

    Args:
        person: (H, H) float32 in [0, 1].
        crop: (H', H', 3) uint8 RGB, the picture of it.
        size: side of the matte, px.
    """
    coarse = resized(person, COARSE_PX)
    slope, offset = _coefficients(resized(crop, COARSE_PX).astype(np.float32) / 255, coarse)
    planes = _enlarged(np.dstack([slope / 255, offset]), size)
    guide = crop if len(crop) == size else cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
    colours = cv2.cvtColor(guide, cv2.COLOR_RGB2RGBA).astype(np.float32)
    colours[..., 3] = 1
    edged = cv2.transform(cv2.multiply(planes, colours), np.full((1, 4), 1 / (1 - 2 * HAZE)))
    edged = cv2.subtract(edged, np.full_like(edged, HAZE / (1 - 2 * HAZE)))
    least, most = (_enlarged(cv2.blur(moved, (3, 3)), size) for moved in _moved(coarse))
    within = cv2.min(cv2.max(edged, least), most)
    return cv2.convertScaleAbs(np.maximum(within, 0), alpha=255)  # 255 at most


def _moved(coarse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask with its edge moved inwards, and outwards."""

    def disc(share: float) -> np.ndarray:
        width = 2 * round(share * len(coarse)) + 1
        return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))

    return cv2.erode(coarse, disc(BAND[0])), cv2.dilate(coarse, disc(BAND[1]))


def _enlarged(values: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR)


def _coefficients(guide: np.ndarray, soft: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (h, w, 3) and offset (h, w), means over windows, of `soft` (h, w) as an affine function of the guide."""

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (2 * REACH + 1, 2 * REACH + 1), borderType=cv2.BORDER_REFLECT)

    colour, share = mean(guide), mean(soft)
    joint = mean(guide * soft[..., None]) - colour * share[..., None]
    squares, products = mean(guide * guide) - colour * colour + SMOOTH, mean(guide * np.roll(guide, -1, axis=2))
    rr, gg, bb = np.moveaxis(squares, 2, 0)
    rg, gb, rb = np.moveaxis(products - colour * np.roll(colour, -1, axis=2), 2, 0)
    # the symmetric 3 x 3 covariance, inverted by its adjugate
    c_rr, c_gg, c_bb = gg * bb - gb * gb, rr * bb - rb * rb, rr * gg - rg * rg
    c_rg, c_rb, c_gb = gb * rb - rg * bb, rg * gb - gg * rb, rb * rg - rr * gb
    r, g, b = np.moveaxis(joint, 2, 0)
    slope = np.dstack([c_rr * r + c_rg * g + c_rb * b, c_rg * r + c_gg * g + c_gb * b, c_rb * r + c_gb * g + c_bb * b])
    slope /= (rr * c_rr + rg * c_rg + rb * c_rb)[..., None]
    return mean(slope), mean(share - (slope * colour).sum(2))
