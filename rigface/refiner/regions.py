"""Regions of a face: by them a refiner's loss is weighted, its change is laid on, and its results are judged.

Path: MediaPipe's landmarks, or the open head's control points, in a crop -> (S, S) uint8 of `REGIONS`.
"""

import cv2
import numpy as np

from rigface.face.geometry.landmarks import LEFT_EYE, RIGHT_EYE

REGIONS = ("outside", "rim", "face", "eyes", "mouth")  # their numbers in the map
OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
FACE_POINTS = 468  # of 478: the others are irises
SOFT = 2 / 128  # of the side: spread of the edge of mouth and eyes
FADE = 4 / 128  # of the side: spread of the edge of the rim
RIM, EYE_MARGIN, LIP_MARGIN = 15 / 128, 9 / 128, 7 / 128  # widths of the brushes, relative to the side


def regions_of(landmarks: np.ndarray, size: int) -> np.ndarray:
    """(S, S) uint8 region of each pixel; the landmarks (468 or 478, 2+) are px of the crop, S px wide."""
    points = np.ascontiguousarray(landmarks[:, :2], np.float32)
    hull = _filled([cv2.convexHull(points[:FACE_POINTS])], size)
    out = _grown(hull, RIM).astype(np.uint8)
    out[hull > 0] = REGIONS.index("face")
    eyes = _filled([cv2.convexHull(points[list(loop)]) for loop in (RIGHT_EYE, LEFT_EYE)], size)
    out[_grown(eyes, EYE_MARGIN) > 0] = REGIONS.index("eyes")
    out[_grown(_filled([cv2.convexHull(points[list(OUTER_LIPS)])], size), LIP_MARGIN) > 0] = REGIONS.index("mouth")
    return out


def features_of(regions: np.ndarray) -> np.ndarray:
    """(S, S) float32 in [0, 1]: 1 in the mouth and the eyes, with soft edges."""
    inside = (regions >= REGIONS.index("eyes")).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(inside, (0, 0), SOFT * len(regions)))


def reach_of(regions: np.ndarray) -> np.ndarray:
    """(S, S) float32 in [0, 1]: 1 on the face and its rim, fading out around them."""
    inside = (regions > 0).astype(np.float32)
    return np.asarray((2 * cv2.GaussianBlur(inside, (0, 0), FADE * len(regions))).clip(0, 1))


def skin_of(regions: np.ndarray) -> np.ndarray:
    """(S, S) float32 in [0, 1]: 1 on the face beside mouth and eyes, with soft edges."""
    inside = (regions == REGIONS.index("face")).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(inside, (0, 0), FADE * len(regions)))


def _filled(hulls: list[np.ndarray], size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for hull in hulls:
        cv2.fillPoly(mask, [hull.astype(np.int32)], 1)
    return mask


def _grown(mask: np.ndarray, width: float) -> np.ndarray:
    side = max(3, round(width * len(mask)) | 1)
    return np.asarray(cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))))
