"""Light and skin by what is white in the whole frame and in the face, beside the crop.

Path: `steps.align`, frame, crop and landmarks -> brighter -> `steps.reconstruct` -> in_frame -> albedo and light.

A reconstructor sees crops alone, and takes their brightest part for white (`skin_tone.py`). On dark skin before a dark
wall that is the skin itself, which then reads pale in a dim light; a lamp behind a face is not the face's light. The
frame shows more (shirts, windows, paper), and the face its own whites in its own light: teeth, eyes, highlights. The
geometric mean of the two stands for the crop's white. What is white in a face moves with its skin, so differences
between skins come out too small; `GAIN` spreads them. Skin and light are scaled by opposite factors, so the picture
stays what it was, and exposure cancels.

Chosen on 872 inputs of people who may shape this project: of the mixtures tried, equal shares agree best with the
photographed tone (Spearman 0.91, by the crop's white 0.90), with a spread within a person of 8.3 degrees (9.5); the
gain is the largest at which ambient light and tone correlate by less than 0.3.

On a head without tone axes nothing changes.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from rigface.colour import LUMINANCE
from rigface.face.head.open_head import OpenHead, has_tone
from rigface.face.reconstruction.protocol import Fit
from rigface.image import resized, srgb8_to_linear
from rigface.types import CROP_PX, FaceParams, HeadSpec

SIDE_PX = 64  # pictures are averaged to this size: a white has to be larger than a spark
WHITE, FRAME_WHITE = 0.99, 0.995  # quantiles of the largest component that count as white: of crop and face, of frame
RANGE = (0.05, 0.6)  # luminance of human skin, very dark to very light
GAIN, KEPT = 1.15, 0.42  # of differences of skin, in logarithms, from this luminance
THIN_PX = 256  # of a larger frame only every so many pixels are averaged
BLACK = 1e-4


def brighter(images: Sequence[np.ndarray], crops: Sequence[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
    """(N,) float32: the white of frame and face over the white of the crop.

    Args:
        images: N frames (H, W, 3) uint8, which may repeat. crops: N crops (S, S, 3) uint8.
        landmarks: (N, L, 3) px of the 512 px crop.
    """
    frames: dict[int, float] = {}
    out = []
    for image, crop, points in zip(images, crops, landmarks):
        if id(image) not in frames:
            step = max(min(image.shape[:2]) // THIN_PX, 1)
            small = cv2.resize(thinned(image, step), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
            frames[id(image)] = white_of(small, FRAME_WHITE)
        small, inside = resized(crop, SIDE_PX), np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        hull = cv2.convexHull((points[:, :2] * (SIDE_PX / CROP_PX)).astype(np.float32))
        cv2.fillConvexPoly(inside, np.rint(hull).astype(np.int32), 1)
        crop_white = white_of(small, WHITE)
        face_white = white_of(small[inside > 0], WHITE) if inside.any() else crop_white
        out.append(np.sqrt(frames[id(image)] * face_white) / crop_white)
    return np.array(out, np.float32)


def thinned(image: np.ndarray, step: int) -> np.ndarray:
    """Every so many pixels of an image, without those beyond its last whole step; NumPy copies them in six times the
    time.
    """
    height, width = image.shape[0] // step, image.shape[1] // step
    whole = image[: height * step, : width * step]
    return whole if step == 1 else cv2.resize(whole, (width, height), interpolation=cv2.INTER_NEAREST)


def white_of(colours: np.ndarray, quantile: float) -> float:
    """Linear brightness of what counts as white among colours (..., 3) uint8."""
    strongest = np.maximum(np.maximum(colours[..., 0], colours[..., 1]), colours[..., 2]).ravel()
    rank = int(quantile * (len(strongest) - 1))
    return max(float(srgb8_to_linear(np.partition(strongest, rank)[rank : rank + 1])[0]), BLACK)


def in_frame(fit: Fit, head: HeadSpec, brighter: np.ndarray, tracks: np.ndarray) -> Fit:
    """The fit of N faces with skin and light by these whites (N,); faces of one number in `tracks` (N,) share them."""
    if not has_tone(head) or not len(brighter):
        return fit
    members = np.unique(tracks, return_inverse=True)[1]
    mean = np.bincount(members, np.log(brighter)) / np.bincount(members)
    colour = np.maximum(OpenHead.load().skin_colour(np.asarray(fit.params.albedo, np.float64)), BLACK)
    luminance = colour @ LUMINANCE
    seen = GAIN * (np.log(luminance / KEPT) - mean[members])
    scale = (KEPT * np.exp(seen)).clip(*RANGE) / luminance
    return replace(fit, params=recoloured(fit.params, scale[:, None] * colour))


def recoloured(params: FaceParams, colour: np.ndarray) -> FaceParams:
    """N faces with skins of these colours (N, 3), linear RGB; their light changes by the opposite factors.

    The picture's mean skin colour stays what it was, so this is the closed-form light of the new skin.
    """
    albedo = np.asarray(params.albedo, np.float64)
    factor = colour / np.maximum(OpenHead.load().skin_colour(albedo), BLACK)
    light = (np.asarray(params.light) / factor[:, None]).astype(np.float32)
    return replace(params, albedo=OpenHead.load().with_skin_colour(albedo, colour), light=light)
