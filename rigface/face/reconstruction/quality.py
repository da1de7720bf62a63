"""Quality of a row: measures of the crop, residuals of the fit, and one confidence for both.

Path: crop, landmarks, mask and the reconstructor's residuals -> measure_quality -> the quality columns. Nothing is
dropped here; readers choose their thresholds.

Sharpness: the energy of the finest band of detail over that of the next coarser one, in the face, at a common scale
(the face about 135 px high). A ratio of bands does not change with contrast, light or skin, so a soft face cannot
pass for a sharp one by being well lit; one enlarged from few pixels counts as soft. Calibrated so that portraits
tagged as blurred are at 0 to 0.16, the median of 179 portraits at 0.84, and a quarter of them at 1. Noise counts as
detail.

Skin: cheeks and forehead by landmarks, the middle of their luminances (no highlights, no hair), averaged in linear
light. Skin tone: ITA = atan((L* - 50) / b*), Chardon, Cretois and Hourseau 1991, in CIELAB for D65; as photographed,
so light and colour cast are in it.

Not a human face: the landmarker finds a face in anything with eyes. `is_suspect` asks for two witnesses: its detector
is unsure (score below 0.8), and the fitted human head cannot explain the picture (colours, visible skin or
landmarks). On 619 faces of 179 portraits and 55 clips it flags 7: a dog, a sign on a wall and a phantom between two
heads (all there were), a face in a broken JPEG, and 3 people (0.5 %), two masked and one in the dark. A painting
passes.

`confidence` is a product of terms in [0, 1], each 1 for a perfect portrait; a term whose number is missing (NaN)
counts as half. On those faces its quartiles are 0.24, 0.60, 0.81; the dog has 0.01.
"""

from math import isnan

import cv2
import numpy as np

from rigface.colour import LUMINANCE, ita_deg
from rigface.face.geometry.landmarks import LAYOUTS
from rigface.image import resized, srgb8_to_linear
from rigface.types import Quality

LOOK_PX = 256  # larger crops are shrunk to this; the measures below are calibrated there
PROFILE_DEG, TINY_PX, BLURRED = 60, 48, 0.15
# Spread of a*, b* that lightness does not explain; toned pictures have 1.3, the palest colour pictures 1.8.
GREY_CHROMA = 1.5
UNSURE, NO_FACE = 0.8, 0.6  # detector scores
STRANGE = 0.9


def measure_quality(
    crop: np.ndarray,
    landmarks: np.ndarray,
    box: np.ndarray,
    score: float,
    mask: np.ndarray | None = None,
    yaw_deg: float = np.nan,
    pitch_deg: float = np.nan,
    roll_deg: float = np.nan,
    landmark_residual: float = np.nan,
    photometric_residual: float = np.nan,
    occlusion: float = np.nan,
) -> Quality:
    """The quality columns of one face.

    Args:
        crop: (S, S, 3) uint8 RGB, as `alignment.crop` cuts it; 256 px are enough.
        landmarks: (L, 2+) px of this picture.
        box: (4,) of the landmarks, frame px.
        score: the detector's, in [0, 1].
        mask: (M, M) uint8, of any size, 0 off the person; keeps what is outside the frame out of the skin.
        yaw_deg, pitch_deg, roll_deg: of the head; signs as in `types.Quality`.
        landmark_residual, photometric_residual, occlusion: as the reconstructor reports them; NaN if the fit failed.

    Returns:
        Finite numbers wherever the picture allows it; what was not given is NaN. Never raises for a bad picture.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    size = max(x1 - x0, y1 - y0)
    half = resized(crop, min(len(crop), LOOK_PX))
    points = np.asarray(landmarks, np.float32)[:, :2] * (len(half) / len(crop))
    crisp = sharpness(half, points)
    skin = skin_colour(half, points, mask)
    exposure = float(skin @ LUMINANCE)
    suspect = is_suspect(score, landmark_residual, photometric_residual, occlusion, yaw_deg)
    landmark_confidence = _rise(score, 0.5, 0.95) * _fall(landmark_residual, 0.002, 0.03)
    confidence = (
        landmark_confidence
        * _rise(size, 16, 160)
        * (0.2 + 0.8 * _rise(crisp, 0, 0.8))
        * (0.1 + 0.9 * _fall(abs(yaw_deg), 15, 90))
        * (0.3 + 0.7 * _fall(abs(pitch_deg), 15, 70))
        * (0.2 + 0.8 * _fall(occlusion, 0.05, 0.7))
        * (0.2 + 0.8 * _fall(photometric_residual, 0.02, 0.2))
        * (0.3 + 0.7 * _rise(exposure, 0.005, 0.05) * _fall(exposure, 0.75, 1.0))
        * (0.1 if suspect else 1.0)
    )
    return Quality(
        confidence=float(confidence),
        landmark_confidence=float(landmark_confidence),
        photometric_residual=photometric_residual,
        landmark_residual=landmark_residual,
        face_size_px=size,
        sharpness=crisp,
        exposure=exposure,
        occlusion=occlusion,
        yaw_deg=float(yaw_deg),
        pitch_deg=float(pitch_deg),
        roll_deg=float(roll_deg),
        skin_tone_ita_deg=float(ita_deg(skin, min_yellow=1e-6)),
        is_profile=bool(abs(yaw_deg) > PROFILE_DEG),
        is_tiny=bool(size < TINY_PX),
        is_blurred=bool(crisp < BLURRED),
        is_grey=is_grey(half),
        is_suspect=suspect,
    )


def sharpness(crop: np.ndarray, landmarks: np.ndarray) -> float:
    """Sharpness of the face in [0, 1]; see the module's text. 0 if the landmarks enclose too few pixels."""
    face = np.asarray(landmarks, np.float32)[:, :2] * (256 / crop.shape[0])
    if not np.isfinite(face).all():
        return 0.0
    x0, y0 = np.clip(np.floor(face.min(0)).astype(int) - 8, 0, 255)
    x1, y1 = np.clip(np.ceil(face.max(0)).astype(int) + 8, 1, 256)
    if x1 - x0 < 16 or y1 - y0 < 16:
        return 0.0
    grey = cv2.cvtColor(resized(crop, 256)[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY).astype(np.float32)
    outline = np.zeros(grey.shape, np.uint8)
    cv2.fillConvexPoly(outline, np.rint(cv2.convexHull(face - np.array([x0, y0], np.float32))).astype(np.int32), 255)
    inside = cv2.erode(outline, np.ones((7, 7), np.uint8))
    a, b, c = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (0.8, 1.6, 3.2))
    fine = cv2.mean((a - b) ** 2, inside)[0]
    coarse = cv2.mean((b - c) ** 2, inside)[0]
    if coarse < 0.05:  # a flat field: no detail, and no measure of it
        return 0.0
    return _rise(float(np.sqrt(fine / coarse)), 0.40, 0.66)


def skin_colour(crop: np.ndarray, landmarks: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """(3,) float64 mean linear RGB of the skin, in [0, 1]; arguments as for `measure_quality`.

    A layout without skin polygons gives the middle of the whole face.
    """
    size = 128
    points = np.nan_to_num(np.asarray(landmarks, np.float32)[:, :2]) * (size / crop.shape[0])
    small = resized(crop, size)
    skin = np.zeros((size, size), np.uint8)
    layout = LAYOUTS.get(len(points))
    polygons = [points[list(p)] for p in layout.skin] if layout else []
    for polygon in polygons or [(points - points.mean(0)) * 0.7 + points.mean(0)]:
        cv2.fillConvexPoly(skin, np.rint(cv2.convexHull(polygon)).astype(np.int32), 1)
    if mask is not None:
        person = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST) > 127
        if (skin[person] > 0).sum() > 20:
            skin[~person] = 0
    chosen = small[skin > 0]
    if len(chosen) == 0:  # the face is outside the crop
        chosen = small.reshape(-1, 3)
    linear = srgb8_to_linear(chosen).astype(np.float64)
    order = np.argsort(linear @ LUMINANCE, kind="stable")
    middle = order[len(order) // 5 : len(order) - len(order) // 5]
    return np.asarray(linear[middle].mean(0))


def is_grey(crop: np.ndarray) -> bool:
    """True if the image has no colour of its own: grey, or toned (sepia), its hue a function of its lightness."""
    small = resized(crop, 64).astype(np.float32) / 255
    l, a, b = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float64).T  # noqa: E741
    l = (l - l.mean()) / (l.std() + 1e-6)  # noqa: E741
    both = np.stack([np.ones_like(l), l, l * l, a, b])
    products = both @ both.T
    curve, mixed, chroma = products[:3, :3], products[:3, 3:], products[3:, 3:]
    # What is left of a*, b* by least squares; the residuals' mean is 0 but for the 1e-6.
    fit = np.linalg.solve(curve + 1e-6 * np.eye(3), mixed)
    rest = np.trace(chroma - 2 * fit.T @ mixed + fit.T @ curve @ fit)
    return bool(max(rest, 0) / (2 * len(l)) < GREY_CHROMA**2)


def is_suspect(
    score: float, landmark_residual: float, photometric_residual: float, occlusion: float, yaw_deg: float = 0.0
) -> bool:
    """True if this is probably no human face; see the module's text. A missing residual (NaN) is no witness."""
    limit = 0.018 if abs(yaw_deg) > 45 else 0.008  # profiles fit worse
    strangeness = (
        _over(photometric_residual, 0.075, 0.35)
        + _over(landmark_residual, limit, 0.5)
        + max(_known(occlusion) - 0.36, 0) / 0.09
    )
    return bool(score < NO_FACE or (score < UNSURE and strangeness > STRANGE))


def _over(value: float, limit: float, scale: float) -> float:
    """Distance of a value above its limit, in `scale`s of its logarithm; 0 below it or if it is missing."""
    return max(float(np.log(max(_known(value), 1e-9) / limit)) / scale, 0.0)


def _known(value: float) -> float:
    return 0.0 if np.isnan(value) else float(value)


def _rise(value: float, low: float, high: float) -> float:
    """0 at `low` and below, 1 at `high` and above, straight between; 0.5 for a missing value."""
    return 0.5 if isnan(value) else float(min(max((value - low) / (high - low), 0), 1))


def _fall(value: float, low: float, high: float) -> float:
    """1 at `low` and below, 0 at `high` and above, straight between; 0.5 for a missing value."""
    return 0.5 if isnan(value) else 1 - _rise(value, low, high)
