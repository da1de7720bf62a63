"""Mask of the person (face, hair, neck) in a crop, from colours and a sketch of a head, in 3 ms and without a network.

Path: crop and its landmarks -> person_mask -> the column `mask`, and the background condition.
Source: Gaussian colour models and soft segmentation by expectation maximisation, as in GrabCut (Rother, Kolmogorov
and Blake, SIGGRAPH 2004) without the graph cut, which alone takes 6-25 ms at 64-96 px; edges by the guided filter
(He, Sun and Tang, ECCV 2010) in its fast form, coefficients at a quarter of the size.

A sketch drawn around the landmarks gives priors of skin, hair, clothes and background (left, right, above). Each gets
one Gaussian of Lab colour; three rounds of expectation maximisation at 64 px let pixels change sides. Inside the
landmarks' outline everything is the person: glasses, beard, a hand. If the result is no head (too small, nearly
everything, not a number), the sketch itself is the result.

Limit: hair against a background of its own colour ends at the edge of the sketch. A network does better: `parsers.py`.
Of a network that tells people from background, `head_share` takes the clothes away with the same models.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from rigface.face.geometry.landmarks import LAYOUTS
from rigface.image import resized

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
SMALL_PX = 64
ROUNDS = 3
CERTAIN = 0.7  # neighbouring pixels are not independent witnesses: their log-likelihoods are damped by this
SOFTEN = np.diag([30.0, 12.0, 12.0])  # added to each covariance, so that a flat wall is not a needle
SPREAD = 0.004  # each class is possible everywhere, a little
CLOTHES = 5  # number of this class; skin and hair are the first two
STRANGE = -11.0  # log-density of a colour among clothes before any are known: what neither skin nor hair explains
NETWORK_ERROR = 0.003, 0.063  # chance that a network errs about a pixel, near the head and far from it
STEEP = 1.8  # of the border between head and clothes: a pixel is rarely half of each


class Parser(Protocol):
    """Segments the person in a crop."""

    def __call__(
        self, crop: np.ndarray, landmarks: np.ndarray, inside: Box | None = None, size: int | None = None
    ) -> np.ndarray:
        """See `person_mask`."""


def person_mask(
    crop: np.ndarray, landmarks: np.ndarray, inside: Box | None = None, size: int | None = None
) -> np.ndarray:
    """Segment the person in a crop.

    Args:
        crop: (H, H, 3) uint8 RGB, as `alignment.crop` cuts it, or smaller; 256 px are enough.
        landmarks: (L, 2+) px of this picture, in any layout (eyes and nose of a known one make the sketch better).
        inside: x0, y0, x1, y1 of the frame in px of this image, if known: pixels outside repeat the frame's border
            and are background.
        size: side of the mask; None: H.

    Returns:
        (size, size) uint8: 255 person, 0 background.

    Raises:
        ValueError: the crop is not square or not (H, H, 3) uint8.
    """
    if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or crop.shape[0] != crop.shape[1]:
        raise ValueError(f"crop: want (H, H, 3) uint8, got {crop.shape} {crop.dtype}")
    points = np.asarray(landmarks, np.float64)[:, :2] * (SMALL_PX / crop.shape[0])
    size = size or len(crop)
    half = resized(crop, max(size // 2, 1))
    small = resized(half, SMALL_PX)
    face, sketch, first = _sketch(points)
    person = _person(small, sketch, first)
    person[face] = 1
    share = person.mean()
    if not (face.mean() * 1.05 < share < 0.9):  # also if it is not a number
        person = sketch[:2].sum(0).reshape(SMALL_PX, SMALL_PX)
    person[~joined(person, face)] = 0
    return within_frame(_sharpened(person.astype(np.float32), half, size), inside, size / len(crop))


def within_frame(mask: np.ndarray, inside: Box | None, scale: float) -> np.ndarray:
    """The mask, 0 beyond the frame, which `inside` times `scale` is in px of the mask."""
    if inside is None:
        return mask
    x0, y0, x1, y1 = (round(float(np.clip(v * scale, 0, len(mask)))) for v in inside)
    kept = np.zeros_like(mask)
    kept[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return kept


def face_outline(points: np.ndarray, size: int) -> np.ndarray:
    """(size, size) bool: inside the convex outline of landmarks (L, 2) px."""
    outline = np.zeros((size, size), np.uint8)
    hull = cv2.convexHull(points.astype(np.float32))
    cv2.fillConvexPoly(outline, np.rint((hull - 0.5) * 16).astype(np.int32), 1, shift=4)
    return outline.astype(bool)


def joined(person: np.ndarray, face: np.ndarray) -> np.ndarray:
    """(S, S) bool: False on parts of the person (S, S), above 0.5, that do not hang together with the face (S, S)."""
    count, islands = cv2.connectedComponents((person > 0.5).astype(np.uint8), connectivity=4)
    kept = np.zeros(count, bool)
    kept[islands[face]] = True
    kept[0] = True  # what is not the person is nothing to take away
    return np.asarray(kept[islands])


def _sketch(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spatial priors of the classes, before any colour is read.

    Args:
        points: (L, 2) landmarks in px of the small picture.

    Returns:
        face (S, S) bool, inside the landmarks' outline; prior (6, S * S) float32, summing to 1 over the classes skin,
        hair, background left, right and above, clothes; and the initial prior of each class: hair close to the face,
        or the wall beside short hair would be taken for more of it.
    """
    layout = LAYOUTS.get(len(points))
    across, ahead = np.array([1.0, 0.0]), 0.0
    if layout is not None:
        eyes = points[list(layout.eyes)]
        across = eyes[:2].mean(0) - eyes[2:].mean(0)
        across = across / max(float(np.hypot(*across)), 1e-6)
    turn = np.array([across, [-across[1], across[0]]])  # picture -> head upright
    upright = points @ turn.T
    low, high = upright.min(0), upright.max(0)
    height = max(high[1] - low[1], 1.1 * (high[0] - low[0]), 1.0)
    if layout is not None:  # how far the nose is off the middle: the back of the head lies on the other side
        ahead = float(upright[layout.nose_tip, 0] - upright[list(layout.sides), 0].mean()) / height
    grid = np.arange(SMALL_PX, dtype=np.float32) + np.float32(0.5)
    turn, middle = turn.astype(np.float32), ((low + high) / 2).astype(np.float32)
    height, ahead = float(height), float(ahead)  # plain numbers leave the grids in float32
    u = (grid * turn[0, 0] + grid[:, None] * turn[0, 1] - middle[0]) / height  # right and down, 1 = a face's height
    v = (grid * turn[1, 0] + grid[:, None] * turn[1, 1] - middle[1]) / height
    back = -1.1 * ahead

    face = face_outline(points, SMALL_PX)
    bare = ~face

    skull = np.sqrt(((u - 0.55 * back) / (0.6 + 0.25 * abs(back))) ** 2 + ((v + 0.17) / 0.8) ** 2)
    head = _below(skull, 1, 0.09)
    mane = _below(skull, 1.2, 0.05)  # big hair
    below_ears = _above(v, 0, 0.15)
    locks = _below(abs(u - 0.5 * back), 0.62, 0.08) * below_ears  # long hair beside the neck
    neck = _below(abs(u - 0.3 * back), 0.27, 0.05) * _above(v, 0.35, 0.05) * _below(v, 0.78, 0.07)
    behind = (1 - head) * (1 - 0.9 * neck)
    over_shoulders = _below(v, 0.6, 0.1)
    prior = np.stack(
        [
            np.maximum(0.9 * neck, 0.35 * head * _below(abs(v), 0.3, 0.1)),  # skin: neck, and ears beside the face
            bare * np.maximum(np.maximum(0.9 * head, 0.3 * mane * _below(v, 0.2, 0.1)), 0.35 * locks * (1 - neck)),
            behind * _below(u, 0, 0.15) * over_shoulders,
            behind * _above(u, 0, 0.15) * over_shoulders,
            behind * _below(v, -0.4, 0.1),
            bare * _above(v, 0.62, 0.05) * (1 - 0.6 * neck),
        ]
    )
    prior += SPREAD
    prior[:, face] = np.array([0.97, 0.03, 1e-4, 1e-4, 1e-4, 1e-4])[:, None]
    prior /= prior.sum(0)
    first = prior.copy()
    first[1] *= _below(skull, 0.78, 0.05)
    return face, prior.reshape(6, -1).astype(np.float32), first.reshape(6, -1).astype(np.float32)


def _below(value: np.ndarray, limit: float, softness: float) -> np.ndarray:
    """1 well below the limit, 0 well above it."""
    return 0.5 - 0.5 * np.tanh((value - limit) / (2 * softness))


def _above(value: np.ndarray, limit: float, softness: float) -> np.ndarray:
    return _below(-value, -limit, softness)


def _person(small: np.ndarray, prior: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(S, S) float32 probability of skin or hair, from the sketch (6, S * S each) and the colours."""
    return np.asarray(_classes(small, prior, first)[:2].sum(0).reshape(small.shape[:2]))


def head_share(person: np.ndarray, crop: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The share of skin, hair and hats among what a network calls a person; the rest is clothes.

    Colours decide below the chin only: above it a person is head. Far from the head, where networks take a dark wall
    for a person, the colours of the background may overrule them.

    Args:
        person: (H, H) float32 in [0, 1], the network's probability.
        crop: (H', H', 3) uint8 RGB, the same picture.
        landmarks: (L, 2+) px of the crop, as in `person_mask`.

    Returns:
        (64, 64) float32 in [0, 1]; 1 inside the landmarks' outline.
    """
    points = np.asarray(landmarks, np.float64)[:, :2] * (SMALL_PX / len(crop))
    small = resized(resized(crop, 4 * SMALL_PX), SMALL_PX)
    face, sketch, _ = _sketch(points)
    bare = ~face.ravel()
    far, above_chin = _zones(points)
    error = NETWORK_ERROR[0] + (NETWORK_ERROR[1] - NETWORK_ERROR[0]) * far
    inside = np.clip(resized(person, SMALL_PX).ravel(), error, 1 - error)
    hair = np.where(bare, np.maximum(sketch[1], np.maximum(0.6 * above_chin, 0.25)), 0.03)
    clothes = np.where(bare, np.maximum(0.8 * sketch[CLOTHES], 0.002), 1e-4)
    wearer = np.stack([np.maximum(sketch[0], 0.01), hair, clothes])
    wearer *= inside**2 / wearer.sum(0)
    around = sketch[2:CLOTHES] + 0.001
    around *= (1 - inside) ** 2 / around.sum(0)
    prior = np.concatenate([wearer[:2], around, wearer[2:]]).astype(np.float32)
    prior /= prior.sum(0)
    first = prior.copy()
    first[0] *= np.where(bare, 0.2, 1)
    first[1] *= bare * above_chin  # of hair of any length, the sure part
    belongs = _classes(small, prior, first, clothes_known=False)
    head, all_of_it = belongs[:2].sum(0), belongs[:2].sum(0) + belongs[CLOTHES]
    share = np.clip(STEEP * (head / (all_of_it + 1e-6) - 0.5) + 0.5, 0, 1)
    share = np.where(bare, np.where(far > 0.5, share * np.minimum(2 * all_of_it, 1), share), 1)
    return np.asarray(share.reshape(face.shape).astype(np.float32))


def _zones(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S * S,) each in [0, 1]: far from the head and not below it; above the chin."""
    low, high = points.min(0), points.max(0)
    height = max(high[1] - low[1], 1.1 * (high[0] - low[0]), 1.0)
    grid = np.arange(SMALL_PX) + 0.5
    u, v = (grid - (low[0] + high[0]) / 2) / height, ((grid - (low[1] + high[1]) / 2) / height)[:, None]
    far = _above(np.sqrt((u / 0.6) ** 2 + ((v + 0.17) / 0.8) ** 2), 1.35, 0.05) * _below(v, 0.5, 0.05)
    above_chin = np.broadcast_to(_below(v, 0.45, 0.05), far.shape)
    return far.ravel(), above_chin.ravel()


def _classes(small: np.ndarray, prior: np.ndarray, first: np.ndarray, clothes_known: bool = True) -> np.ndarray:
    """(6, S * S) probability of each class, from its prior, its first guess (6, S * S each), and the colours.

    All six Gaussians are evaluated by one matrix product: their exponents are linear in the colours' monomials. With
    `clothes_known` False a first round finds as clothes what the colours of skin and hair do not explain.
    """
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).T.astype(np.float32, order="C")
    colours -= colours.mean(1, keepdims=True)
    colours[0] *= np.float32(0.6)  # shading counts less than colour
    l, a, b = colours  # noqa: E741
    monomials = np.stack([np.ones_like(l), l, a, b, l * l, a * a, b * b, l * a, l * b, a * b])
    log_prior = np.log(prior)
    belongs = first
    for k in range(ROUNDS + (not clothes_known)):
        moments = (belongs @ monomials.T).astype(np.float64)  # colours are centred, so float32 sums are good enough
        moments /= moments[:, :1] + 1e-9
        exponents = _exponents(moments).astype(np.float32) @ monomials
        if k == 0 and not clothes_known:
            exponents[CLOTHES] = STRANGE
        likely = log_prior + CERTAIN * exponents
        belongs = cv2.exp(likely - likely.max(0))  # a third of NumPy's time
        belongs /= belongs.sum(0)
    return belongs


def _exponents(moments: np.ndarray) -> np.ndarray:
    """Coefficients on the monomials of K Gaussians' log-densities, from their moments: (K, 10) -> (K, 10)."""
    mean = moments[:, 1:4]
    second = moments[:, [[4, 7, 8], [7, 5, 9], [8, 9, 6]]]
    covariance = second - mean[:, :, None] * mean[:, None] + SOFTEN
    inverse = np.linalg.inv(covariance)
    slope = (inverse @ mean[..., None])[..., 0]
    constant = -0.5 * ((mean * slope).sum(1) + np.log(np.linalg.det(covariance)))
    squares, products = -0.5 * inverse[:, [0, 1, 2], [0, 1, 2]], -inverse[:, [0, 0, 1], [1, 2, 2]]
    return np.concatenate([constant[:, None], slope, squares, products], axis=1)


def _sharpened(person: np.ndarray, picture: np.ndarray, size: int) -> np.ndarray:
    """The small soft mask as a hard one (size, size), its edges drawn to the picture's (h, h, 3)."""
    side, reach = len(picture), 4
    coarse = max(side // 2, 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (2 * reach + 1, 2 * reach + 1), borderType=cv2.BORDER_REPLICATE)

    def enlarged(values: np.ndarray, to: int) -> np.ndarray:
        return cv2.resize(values, (to, to), interpolation=cv2.INTER_LINEAR)

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    guide = resized(grey, coarse)
    soft = enlarged(person, coarse)
    guide_mean, soft_mean = mean(guide), mean(soft)
    slope = (mean(guide * soft) - guide_mean * soft_mean) / (mean(guide * guide) - guide_mean**2 + 0.003 * 255**2)
    offset = mean(soft_mean - slope * guide_mean)
    edged = enlarged(mean(slope), side) * grey + enlarged(offset, side)
    edged = cv2.convertScaleAbs(np.maximum(edged, 0), alpha=255)  # bytes from here on: a quarter of the memory to touch
    return cv2.threshold(enlarged(edged, size), 127, 255, cv2.THRESH_BINARY)[1]
