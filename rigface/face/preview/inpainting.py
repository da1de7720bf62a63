"""Inpainting of the background behind a person, once a photograph: smooth deep inside the hole, texture in its rim.

Path: crop and mask -> inpaint_background -> the background that `warp.py` shows in place of the moved person.
Source: push-pull interpolation (Gortler et al., "The Lumigraph", SIGGRAPH 1996), averages of what is known from coarse
to fine; in the rim, which is all that a turned head uncovers, patches of the same picture (`patch_fill.py`).

A result costs some 50 ms at 512 px, so the last few are kept: a slider, and a clip made from one photograph, pay once
and show the same background in every frame.
"""

import threading
import zlib
from collections import OrderedDict

import cv2
import numpy as np

from rigface.face.preview.patch_fill import fill_by_patches
from rigface.image import resized

GROW = 0.02  # of the side, by which the hole is wider than the person: hair and soft edges lie outside a mask
WORK_PX = 128  # resolution of hole and smooth filling
RIM = 0.16  # of the side: width of the hole's rim that gets texture; a turn by 30 degrees uncovers less
TONE = 0.045  # of the side: spread of the tones that are compared on both sides of the hole's edge
MIN_REACH = 0.1  # share of either side in the spread, from which the difference counts whole
FADE = 0.3  # of the rim, over which texture fades into the smooth inside
MAX_PX = 1024  # side at which texture is filled in; what is uncovered of a larger crop is that much softer
KEPT = 4  # backgrounds

_kept: OrderedDict[tuple[int, ...], tuple[np.ndarray, np.ndarray, np.ndarray]] = OrderedDict()
_turn = threading.Lock()


def inpaint_background(crop: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture (S, S, 3) uint8 without the person, who is 255 in the mask (S, S) uint8.

    Returns the filled background, valid where the second is above 0: (S, S) uint8, 255 on the person and their soft
    edges. The third are `edge_colours`. All are shared between calls and not to be written to.
    """
    key = (len(crop), *(zlib.crc32(np.ascontiguousarray(a).data) for a in (crop, mask)))
    with _turn:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    result = _inpainted(crop, mask)
    with _turn:
        _kept[key] = result
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return result


def _inpainted(crop: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hole = hole_of(mask)
    return fill_background(crop, hole), hole, edge_colours(crop, mask)


def hole_of(mask: np.ndarray) -> np.ndarray:
    """(S, S) uint8: the mask (S, S) grown by what a person's soft edges and hair exceed it, itself with soft edges."""
    person = cv2.dilate(cv2.resize(mask, (WORK_PX, WORK_PX), interpolation=cv2.INTER_AREA), _disc(GROW))
    return cv2.resize(cv2.blur(person, (3, 3)), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)


def fill_background(picture: np.ndarray, hole: np.ndarray, has_texture: bool = True) -> np.ndarray:
    """The picture (S, S, 3) uint8 with the hole, above 0 in (S, S) uint8, filled in from around it."""
    size = len(picture)
    if size > MAX_PX:
        small = fill_background(resized(picture, MAX_PX), resized(hole, MAX_PX), has_texture)
        return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    known = cv2.resize(hole, (WORK_PX, WORK_PX), interpolation=cv2.INTER_AREA) < 8
    small = cv2.resize(picture, (WORK_PX, WORK_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    smooth: np.ndarray = (_filled(small, known.astype(np.float32)) + 0.5).clip(0, 255).astype(np.uint8)
    smooth = cv2.resize(smooth, (size, size), interpolation=cv2.INTER_LINEAR)
    depth = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 5) / WORK_PX
    rim = ~known & (depth < RIM)
    if not (has_texture and rim.any() and known.any()):
        return smooth
    filled = _toned(fill_by_patches(picture, ~known, rim, smooth), small, known, rim)
    share = cv2.resize(np.clip((RIM - depth) / (FADE * RIM), 0, 1).astype(np.float32), (size, size))
    return cv2.blendLinear(filled, smooth, share, 1 - share)


def edge_colours(crop: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(128, 128, 6) uint8: colours of the person and of the background beside each place of a soft edge.

    Each is continued over the edge from where it is sure. With them the kernel takes the background out of a mixed
    pixel, as in the fast estimate of foregrounds by Forte and Pitie ("Approximate fast foreground colour estimation",
    ICIP 2021): F + a (I - a F - (1 - a) B).
    """
    small, share = (cv2.resize(a, (WORK_PX, WORK_PX), interpolation=cv2.INTER_AREA) for a in (crop, mask))
    sure = cv2.erode((share > 250).astype(np.float32), np.ones((3, 3)), borderValue=1)
    beside = (hole_of(share) == 0).astype(np.float32)
    both = [_filled(small.astype(np.float32), where) for where in (sure, beside)]
    return (np.concatenate(both, axis=2) + 0.5).clip(0, 255).astype(np.uint8)


def _toned(filled: np.ndarray, small: np.ndarray, known: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """Patches (S, S, 3) uint8 in a rim (128, 128) bool, with the tone of what is known beside it.

    The difference of tone at the hole's edge is spread over the rim, as in Poisson image editing (Perez et al.,
    SIGGRAPH 2003). A patch of a wall in the light would else be a halo beside a wall in the shade.
    """
    (near, here), (own, there) = _blurred(small, known), _blurred(resized(filled, WORK_PX).astype(np.float32), rim)
    weight = np.where(rim, np.minimum(np.minimum(here, there) / MIN_REACH, 1), 0).astype(np.float32)
    change = cv2.GaussianBlur(_filled(near - own, weight), (0, 0), TONE * WORK_PX)
    change = cv2.resize(change, filled.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.add(filled, change, dtype=cv2.CV_8U)


def _blurred(image: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low frequencies (S, S, 3) float32 of an image within a mask (S, S) bool, and the mask's share (S, S)."""
    weight = where.astype(np.float32)
    total, share = (cv2.GaussianBlur(a, (0, 0), TONE * WORK_PX) for a in (image * weight[..., None], weight))
    return total / np.maximum(share, 1e-4)[..., None], share


def _disc(share: float) -> np.ndarray:
    width = 2 * max(1, round(share * WORK_PX)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))


def _filled(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(S, S, 3) float32: known pixels (1) as they are, averages of the known around the rest."""
    colours, weights = [picture * known[..., None]], [known]
    while len(weights[-1]) > 1:
        half = max(len(weights[-1]) // 2, 1)
        colours.append(resized(colours[-1], half))
        weights.append(resized(weights[-1], half))
    out = colours[-1].reshape(1, 1, 3) / max(float(weights[-1].max()), 1e-6)
    for colour, weight in zip(colours[-2::-1], weights[-2::-1]):
        coarse = cv2.resize(out.reshape(*out.shape[:2], 3), weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        missing = (1 - np.minimum(weight * 4, 1))[..., None]  # a quarter of a cell known is enough to believe it
        out = colour / np.maximum(weight, 1e-6)[..., None] * (1 - missing) + coarse * missing
    return np.asarray(out)
