"""Spherical-harmonic lighting: nine coefficients per colour.

Path: FaceParams.light and the normals of `renderer.py` -> shade -> times the albedo -> the `render` condition.
Source: Ramamoorthi & Hanrahan, "An Efficient Representation for Irradiance Environment Maps", SIGGRAPH 2001, the
A_l factors of the irradiance series.
Deviates: the paper has A_0 = pi; DECA's encoder was trained with 1, so its coefficients need 1 here.

Colours are linear. Normals and light are in the camera frame: x to the viewer's right (a facing person's left), y up,
z to the viewer. Shape suffixes: K = 9 harmonics, C = 3 colours.
"""

from math import pi, sqrt

import torch
from torch import Tensor

from rigface.colour import LUMINANCE

_BAND = (1.0, 2 * pi / 3, pi / 4)  # cosine lobe, one factor per band
_GAIN = (
    _BAND[0] * sqrt(1 / (4 * pi)),
    *[_BAND[1] * sqrt(3 / (4 * pi))] * 3,
    *[_BAND[2] * sqrt(15 / (4 * pi))] * 3,
    _BAND[2] * sqrt(15 / (16 * pi)),
    _BAND[2] * sqrt(5 / (16 * pi)),
)


def harmonics(normals: Tensor) -> Tensor:
    """The nine real harmonics (..., 9) at unit normals (..., 3), each with its factor of the irradiance series."""
    return _monomials(normals) * normals.new_tensor(_GAIN)


def shade(normals: Tensor, light_NKC: Tensor) -> Tensor:
    """Irradiance (N, ..., 3) at each normal, linear, not clamped; multiply by albedo in [0, 1] for a colour.

    Normals are unit, in the camera frame: per pixel (N, H, W, 3), or per vertex (N, V, 3); the light (N, 9, 3) is as in
    `FaceParams.light`. ValueError if the light is not of the same N.
    """
    if light_NKC.shape != (normals.shape[0], 9, 3):
        raise ValueError(f"light: want ({normals.shape[0]}, 9, 3), got {tuple(light_NKC.shape)}")
    gained = light_NKC * light_NKC.new_tensor(_GAIN)[:, None]  # the few numbers of the light, not each pixel's nine
    return torch.einsum("n...k,nkc->n...c", _monomials(normals), gained)


def mean_shading(light: Tensor) -> Tensor:
    """Mean shading (..., 3), linear, of a ball as the camera sees it in a light (..., 9, 3), like the reading of an
    exposure meter; white ambient light of strength 1 gives 1.

    Averages of the harmonics over the disc are 1, 2/3 for z and 1/2 for 3z2-1, and 0 for the others.
    """
    shares = light.new_tensor([1, 0, 0, 2 / 3, 0, 0, 0, 0, 1 / 2]) * light.new_tensor(_GAIN)
    return torch.einsum("...kc,k->...c", light, shares)


def lamp_harmonics(towards: Tensor) -> Tensor:
    """Coefficients (..., 9) of a distant white lamp that shades a surface by max(0, cosine of the angle to it).

    Unit vectors (..., 3) point towards the lamp, camera frame. The Legendre series of the clamped cosine, 1/4 + 1/2 P1
    + 5/16 P2, in this module's basis; it is exact to 0.1 of the lamp's strength, and slightly negative behind.
    """
    waves = _monomials(towards)
    shares = towards.new_tensor([1 / 4, *[1 / 2] * 3, *[15 / 16] * 3, 15 / 64, 5 / 64])
    return waves * shares / towards.new_tensor(_GAIN)


def _monomials(normals: Tensor) -> Tensor:
    x, y, z = normals.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], dim=-1)


def light_direction(light: Tensor) -> Tensor:
    """Unit vector (..., 3) to the main direction of a light (..., 9, 3), by its first band; zero if it has none."""
    first: Tensor = light[..., 1:4, :] @ light.new_tensor(LUMINANCE)
    length: Tensor = first.norm(dim=-1, keepdim=True)
    return first / length.clamp(min=torch.finfo(first.dtype).tiny)
