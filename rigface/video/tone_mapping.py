"""HDR frames (HLG and PQ in BT.2020) as sRGB.

Path: `frame_convert.py` -> is_hdr, tone_mapped -> the image.
Source: ITU-R BT.2100 (the two transfer functions, and HLG's system gamma of 1.2 for a display of 1000 cd/m2), BT.2408
(white at 203 cd/m2), BT.2087 (primaries).

White becomes 1, so that skin has the colour and brightness that it has in an SDR version of the clip. What is brighter
bends towards 1 from `KNEE` on instead of being cut off.
"""

from functools import cache

import av
import numpy as np

from rigface.image import linear_to_srgb

_PQ, _HLG = 16, 18  # transfer characteristics of ISO/IEC 23091-2
WHITE, PEAK = 203.0, 1000.0  # cd/m2
KNEE = 0.9
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
).T  # fmt: skip
_LEVELS = 4096  # entries of the tables
_ENCODED = (linear_to_srgb(np.linspace(0, 1, _LEVELS)) * 255 + 0.5).astype(np.uint8)  # sRGB of linear light


def is_hdr(frame: av.VideoFrame) -> bool:
    """True if the frame's transfer function is HLG or PQ."""
    return frame.color_trc in (_PQ, _HLG)


def tone_mapped(picture: np.ndarray, transfer: int) -> np.ndarray:
    """(H, W, 3) uint8 sRGB of a frame (H, W, 3) uint16, full range, with this transfer function."""
    light = _linear(transfer)[picture >> 4]
    if transfer == _HLG:
        light *= np.maximum(light @ _LUMINANCE, 1e-6)[..., None] ** 0.2 * (PEAK / WHITE)
    light = np.maximum(light @ _TO_709, 0)
    bent = 1 - (1 - KNEE) * np.exp((KNEE - light) / (1 - KNEE))
    light = np.where(light > KNEE, bent, light)
    return np.asarray(_ENCODED[(light * (_LEVELS - 1) + 0.5).astype(np.uint16)])


@cache
def _linear(transfer: int) -> np.ndarray:
    """Light of each coded level: HLG as scene light in [0, 1], PQ as multiples of white."""
    code = np.linspace(0, 1, _LEVELS)
    if transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    else:
        m1, m2, c1, c2, c3 = 2610 / 16384, 78.84375, 0.8359375, 18.8515625, 18.6875
        root = code ** (1 / m2)
        light = 10_000 / WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return light.astype(np.float32)
