"""Distances of lights as coefficients, lit ball and direction; change of the skin tone.

Path: FaceParams.light of an output and as wanted -> the light columns; the skin's colour -> ITA.
Source: Ramamoorthi & Hanrahan 2001 for the ball (`face/lighting.shade`); the scale-invariant error of Barron & Malik,
"Shape, Illumination, and Reflectance from Shading", 2015; the individual typology angle of Chardon et al. 1991, with
its usual six classes.

Colours are linear, lights (N, 9, 3) in the camera frame.
"""

from functools import lru_cache

import numpy as np
import torch

from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.rendering.lighting import harmonics, mean_shading, shade

BALL_PX = 48
DIRECTED = 0.05  # a first band shorter than this share of the constant term has no clear direction
ITA_EDGES = ((55.0, "very light"), (41.0, "light"), (28.0, "intermediate"), (10.0, "tan"), (-30.0, "brown"))


@lru_cache(maxsize=4)
def _ball(size: int) -> torch.Tensor:
    """(P, 3) unit normals of a ball seen from the camera, one per pixel of its disc."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(at, -at)
    inside = x**2 + y**2 < 1
    x, y = x[inside], y[inside]
    return torch.from_numpy(np.stack([x, y, np.sqrt(1 - x**2 - y**2)], -1))


def lit_ball(light: np.ndarray, size: int = BALL_PX) -> np.ndarray:
    """A white ball in this light, as the pixels of its disc: (N, 9, 3) -> (N, P, 3) float64, linear, not below 0."""
    lights = torch.from_numpy(np.asarray(light, np.float64))
    normals = _ball(size).expand(len(lights), -1, 3)
    return np.asarray(shade(normals, lights).clamp_min(0).numpy())


def ball_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) scale-invariant mean squared error in [0, 1] of a white ball in two lights (N, 9, 3); NaN if one is black.

    min over s of |s A - B|^2 / |B|^2 = 1 - <A, B>^2 / (|A|^2 |B|^2): symmetric, and independent of brightness.
    """
    first, second = (lit_ball(light).reshape(len(light), -1) for light in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (first * second).sum(1) ** 2 / ((first**2).sum(1) * (second**2).sum(1))
    return np.asarray(np.clip(1 - share, 0, 1))


def direction_errors_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) degrees in [0, 180] between the first bands of two lights (N, 9, 3), averaged over RGB.

    NaN for a light whose first band is shorter than `DIRECTED` of its constant term.
    """
    firsts, clear = [], np.ones(len(a), bool)
    for light in (np.asarray(a, np.float64), np.asarray(b, np.float64)):
        first, constant = light[:, 1:4].mean(-1), light[:, 0].mean(-1)
        clear &= np.linalg.norm(first, axis=-1) >= DIRECTED * np.abs(constant)
        clear &= np.linalg.norm(first, axis=-1) > 0
        firsts.append(first)
    crossed, along = np.linalg.norm(np.cross(*firsts), axis=-1), (firsts[0] * firsts[1]).sum(-1)
    return np.where(clear, np.degrees(np.arctan2(crossed, along)), np.nan)


def describe_light(light: np.ndarray, unit: float = 1.0) -> dict[str, float]:
    """A light (9, 3) in the terms of `edits.LightEdit`: lamp and surround with its constant term and first band.

    The inverse of `transfer.light_coefficients` for white lamps. `unit` is the linear radiance of strength 1: the
    source's `transfer.exposure`, or 1 for absolute strengths.
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


def remove_shading(colour: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A skin's mean colour (N, 3), linear, with its mean light (N, 9, 3) divided out.

    A reconstructor that gives every skin one brightness, as the fit does on FLAME's texture, leaves only the hue to be
    compared; on the open head's albedo brightness is read from what is white in the picture.
    """
    shading = np.maximum(mean_shading(torch.from_numpy(np.asarray(light, np.float64))).numpy(), 1e-4)
    return np.asarray(np.asarray(colour, np.float64) / shading)


def ita_class(angle: float) -> str:
    """The usual name of a skin tone by its angle: very light (> 55), light, intermediate, tan, brown, dark (<= -30)."""
    if not np.isfinite(angle):
        return "unknown"
    return next((name for above, name in ITA_EDGES if angle > above), "dark")
