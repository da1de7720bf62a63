"""How far one light is from another: as coefficients, as a lit ball, as a direction; and whether the skin held.

Path: FaceParams.light of an output and as wanted -> the light columns; the skin's colour -> ITA.
Source: Ramamoorthi & Hanrahan 2001 for the ball (`face/lighting.shade`); the scale-invariant error of Barron & Malik,
"Shape, Illumination, and Reflectance from Shading", 2015; the individual typology angle of Chardon et al. 1991, with
its usual six classes.

Colours are linear, lights (N, 9, 3) in the camera frame.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.rendering.lighting import harmonics, mean_shading, shade

BALL_PX = 48
DIRECTED = 0.05  # a first band shorter than this share of the constant term has no direction to speak of
ITA_EDGES = ((55.0, "very light"), (41.0, "light"), (28.0, "intermediate"), (10.0, "tan"), (-30.0, "brown"))


def sh_rmse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square difference of the 27 coefficients: (N, 9, 3) twice -> (N,)."""
    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.sqrt((gap**2).mean((-1, -2)))


@lru_cache(maxsize=4)
def _ball(size: int) -> torch.Tensor:
    """(P, 3) unit normals of a ball seen from the camera, one per pixel of its disc."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(at, -at)
    inside = x**2 + y**2 < 1
    x, y = x[inside], y[inside]
    return torch.from_numpy(np.stack([x, y, np.sqrt(1 - x**2 - y**2)], -1))


def ball(light: np.ndarray, size: int = BALL_PX) -> np.ndarray:
    """A white ball in this light, as the pixels of its disc: (N, 9, 3) -> (N, P, 3) float64, linear, not below 0."""
    lights = torch.from_numpy(np.asarray(light, np.float64))
    normals = _ball(size).expand(len(lights), -1, 3)
    return shade(normals, lights).clamp_min(0).numpy()


def ball_error(a: np.ndarray, b: np.ndarray, size: int = BALL_PX) -> np.ndarray:
    """Scale-invariant mean squared error of a white ball in both lights, relative to the ball's own mean square.

    min over s of |s A - B|^2 / |B|^2 = 1 - <A, B>^2 / (|A|^2 |B|^2): symmetric, and blind to how bright either light is.

    Args:
        a, b: (N, 9, 3).

    Returns:
        (N,) in [0, 1]; NaN where a ball is black.
    """
    first, second = (ball(light, size).reshape(len(light), -1) for light in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (first * second).sum(1) ** 2 / ((first**2).sum(1) * (second**2).sum(1))
    return np.clip(1 - share, 0, 1)


def direction_errors_deg(a: np.ndarray, b: np.ndarray, least: float = DIRECTED) -> np.ndarray:
    """Angle between the first bands of two lights, averaged over RGB.

    Args:
        a, b: (N, 9, 3).
        least: a light whose first band is shorter than this share of its constant term is skipped.

    Returns:
        (N,) degrees in [0, 180]; NaN where either light was skipped. Count them: `np.isnan(...).sum()`.
    """
    firsts, clear = [], np.ones(len(a), bool)
    for light in (np.asarray(a, np.float64), np.asarray(b, np.float64)):
        first, constant = light[:, 1:4].mean(-1), light[:, 0].mean(-1)
        clear &= np.linalg.norm(first, axis=-1) >= least * np.abs(constant)
        clear &= np.linalg.norm(first, axis=-1) > 0
        firsts.append(first)
    crossed, along = np.linalg.norm(np.cross(*firsts), axis=-1), (firsts[0] * firsts[1]).sum(-1)
    return np.where(clear, np.degrees(np.arctan2(crossed, along)), np.nan)


def described(light: np.ndarray, unit: float = 1.0) -> dict[str, float]:
    """A light in the words of `edits.LightEdit`: the lamp and surround that have its constant term and first band.

    The inverse of `mix.light_of` for white lamps; the second band is not looked at.

    Args:
        light: (9, 3).
        unit: linear radiance of strength 1: the source's `mix.exposure`, or 1 for absolute strengths.

    Returns:
        azimuth_deg, elevation_deg, intensity, ambient.
    """
    grey = np.asarray(light, np.float64).mean(-1)
    gain = harmonics(torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))[0].numpy()  # of the constant and of x
    strength = np.linalg.norm(grey[1:4])
    x, y, z = grey[1:4] / max(strength, 1e-12)
    intensity = strength * 2 * gain[1]  # lamp: half of the first band, a quarter of the constant
    ambient = (grey[0] - intensity / (4 * gain[0])) / AMBIENT
    return {
        "azimuth_deg": float(np.degrees(np.arctan2(x, z))),
        "elevation_deg": float(np.degrees(np.arcsin(np.clip(y, -1, 1)))),
        "intensity": float(intensity / unit),
        "ambient": float(ambient / unit),
    }


def delit(colour: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A skin's mean colour (N, 3), linear, with its mean light (N, 9, 3) divided out.

    How bright a skin is in itself one photograph does not tell; where the reconstructor settles it by a prior, as
    the open head's does, what remains to compare is the hue.
    """
    shading = np.maximum(mean_shading(torch.from_numpy(np.asarray(light, np.float64))).numpy(), 1e-4)
    return np.asarray(colour, np.float64) / shading


def ita_class(angle: float) -> str:
    """The usual name of a skin tone by its angle: very light (> 55), light, intermediate, tan, brown, dark (<= -30)."""
    if not np.isfinite(angle):
        return "unknown"
    return next((name for above, name in ITA_EDGES if angle > above), "dark")
