"""Regions of a true frame, by which an output is compared with it, and the share of detail that an output keeps.

Path: landmarks and masks of source and true frame -> `regions_of` -> `TrueFrame.compare`.

Hair, clothes and background hold nine tenths of an error over whole pictures, and the edit does not decide them.
Lengths are given for a crop of 256 px, whose face is 135 px large, and scale with the face.
"""

from collections.abc import Mapping
from functools import cached_property

import cv2
import numpy as np

from rigface.face.geometry.landmarks import LEFT_EYE, RIGHT_EYE
from rigface.image import linear_to_srgb, srgb8_to_linear
from rigface.metrics import image
from rigface.refiner.regions import FACE_POINTS, OUTER_LIPS

REGIONS = ("face", "features", "rim", "outline", "background")
DETAILED = ("face", "features")  # whose detail is compared
FACE_PX = 135.0
RIM_PX = 10.0  # either side of the outline of the face (`rim`) or of the person (`outline`)
FEATURE_PX = 4.0  # around lips and lids
DETAIL_PX = 1.0  # spread of the low-pass whose rest is detail
MIN_PIXELS = 30  # of a region, below which it is not measured
MAX_DB = 100.0  # equal pictures have infinite PSNR, and means need a number


def face_unit(landmarks: np.ndarray) -> float:
    """Pixels of this picture per pixel of a crop of 256 px, by the larger side of the landmarks' box."""
    return max(float(np.ptp(landmarks[:, :2], axis=0).max()) / FACE_PX, 1e-3)


def hull(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: the convex hull of points (L, 2+), picture px."""
    canvas = np.zeros(shape[:2], np.uint8)
    outline = cv2.convexHull((points[:FACE_POINTS, :2] - 0.5).astype(np.float32))
    cv2.fillConvexPoly(canvas, np.round(outline).astype(np.int32), 1)
    return canvas.astype(bool)


def regions_of(
    truth: np.ndarray, source: np.ndarray, people: tuple[np.ndarray, np.ndarray], shown: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """(H, W) bool masks of `REGIONS`; those with too few pixels are left out.

    Args:
        truth, source: landmarks (L, 2+) of the true frame and the source, picture px. `features`, mouth and eyes, need
            MediaPipe's 468 points.
        people: masks (H, W) bool of the person in both.
        shown: (H, W) bool, where the true frame is known.
    """
    shape, unit = people[0].shape, face_unit(truth)
    out = {"face": hull(truth, shape)}
    if len(truth) >= FACE_POINTS:
        parts = np.logical_or.reduce([hull(truth[list(loop)], shape) for loop in (LEFT_EYE, RIGHT_EYE, OUTER_LIPS)])
        out["features"] = _grown(parts, FEATURE_PX * unit)
    out["rim"] = _band(out["face"], RIM_PX * unit) | _band(hull(source, shape), RIM_PX * unit)
    out["outline"] = _band(people[0], RIM_PX * unit) | _band(people[1], RIM_PX * unit)
    out["background"] = image.background(*people)
    known = {name: mask if shown is None else mask & shown for name, mask in out.items()}
    return {name: mask for name, mask in known.items() if mask.sum() >= MIN_PIXELS}


def _grown(mask: np.ndarray, radius: float) -> np.ndarray:
    side = 2 * max(1, round(radius)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc) > 0)


def _band(mask: np.ndarray, radius: float) -> np.ndarray:
    """Pixels near the border of a mask, on both sides; the picture's own border is none."""
    return np.asarray(_grown(mask, radius) & _grown(~mask, radius))


def detail_energy(picture: np.ndarray, where: np.ndarray, unit: float) -> float:
    """Mean square of what a low-pass of `DETAIL_PX` takes from the grey values (0..255), over (H, W) bool."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), max(DETAIL_PX * unit, 0.5))
    return float(np.square(detail[where]).mean()) if where.any() else np.nan


def _mean_lab(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(3,) CIELAB of the mean of linear RGB of (H, W, 3) uint8 over (H, W) bool."""
    mean = srgb8_to_linear(picture[where][None]).mean(1, keepdims=True).astype(np.float32)
    return np.asarray(cv2.cvtColor(linear_to_srgb(mean), cv2.COLOR_RGB2LAB)[0, 0], np.float64)


class TrueFrame:
    """A true frame (H, W, 3) uint8 with its regions, with which any number of outputs are compared."""

    def __init__(self, picture: np.ndarray, regions: Mapping[str, np.ndarray], landmarks: np.ndarray) -> None:
        self._picture, self._regions, self._unit = picture, regions, face_unit(landmarks)
        self._side, self._points = min(picture.shape[:2]), landmarks[:FACE_POINTS, :2]

    @cached_property
    def _similarity(self) -> image.Similarity:
        return image.Similarity(self._picture)

    @cached_property
    def _tone(self) -> np.ndarray:
        return _mean_lab(self._picture, self._regions["face"])

    @cached_property
    def _details(self) -> dict[str, float]:
        shown = {name: self._regions[name] for name in DETAILED if name in self._regions}
        return {name: detail_energy(self._picture, mask, self._unit) for name, mask in shown.items()}

    def compare(self, output: np.ndarray, landmarks: np.ndarray | None) -> dict[str, float]:
        """Numbers of an output of the same shape, and of its face's landmarks.

        `psnr_<region>` dB and `ssim_<region>`; `sharpness_<region>` of `DETAILED`, the energy of the detail relative
        to the true frame's; `tone`, CIELAB distance of the mean colours of the face; `landmarks` and `landmarks_mouth`,
        mean distance in percent of the picture's shorter side.
        """
        squares = image.square_error(output, self._picture)
        likeness = self._similarity(output)
        out = {}
        for name, mask in self._regions.items():
            error = float(squares[mask].mean())
            out[f"psnr_{name}"] = min(-10 * np.log10(error), MAX_DB) if error > 0 else MAX_DB
            known = likeness[mask]
            out[f"ssim_{name}"] = float(np.nanmean(known)) if np.isfinite(known).any() else np.nan
        for name, energy in self._details.items():
            if energy > 0:
                out[f"sharpness_{name}"] = detail_energy(output, self._regions[name], self._unit) / energy
        if "face" in self._regions:
            out["tone"] = float(np.linalg.norm(_mean_lab(output, self._regions["face"]) - self._tone))
        if landmarks is not None and landmarks[:FACE_POINTS].shape[:1] == self._points.shape[:1]:
            apart = np.linalg.norm(landmarks[:FACE_POINTS, :2] - self._points, axis=1) / self._side * 100
            out["landmarks"] = float(apart.mean())
            if len(apart) >= FACE_POINTS:
                out["landmarks_mouth"] = float(apart[list(OUTER_LIPS)].mean())
        return out
