"""Inpainting of the background behind a person from the hole's edges, in a millisecond or two.

Path: crop and mask -> inpaint_background -> the background that `warp.py` shows in place of the moved person.
Source: push-pull interpolation (Gortler et al., "The Lumigraph", SIGGRAPH 1996): averages of what is known, from
coarse to fine. It invents no texture; a preview shows a narrow rim of it.
"""

import cv2
import numpy as np

from rigface.image import resized

GROW = 0.016  # of the side, by which the hole is wider than the person: hair and soft edges lie outside a mask
WORK_PX = 128  # what is filled in is smooth, so this resolution is enough


def inpaint_background(crop: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture (S, S, 3) uint8 without the person, who is 255 in the mask (S, S) uint8.

    Returns the filled background, valid where the second is above 0: (S, S) uint8, 255 on the person and their soft
    edges.
    """
    size = len(crop)
    work = min(size, WORK_PX)
    person = resized(mask, work)
    width = 2 * max(1, round(GROW * work)) + 1
    person = cv2.dilate(person, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    hole: np.ndarray = cv2.blur(person, (3, 3))
    known = (person < 8).astype(np.float32)
    smooth = _filled(resized(crop, work).astype(np.float32), known)
    filled: np.ndarray = (smooth + 0.5).clip(0, 255).astype(np.uint8)
    if work < size:
        filled = cv2.resize(filled, (size, size), interpolation=cv2.INTER_LINEAR)
        hole = cv2.resize(hole, (size, size), interpolation=cv2.INTER_LINEAR)
    return filled, hole


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
