"""Split the colours of a face into skin and light: albedo and nine spherical-harmonic coefficients per colour.

Path: colours and normals at the places that `appearance.py` reads -> AlbedoLightSolver -> albedo (per track), light
(per face).
Source: Lambertian image formation I = rho(a) * (H L), H the harmonics of `lighting.py`; alternating ridge regression
with Cauchy weights, as in Zhang & Samaras 2006 and Aldrian & Smith 2013, each half in closed form.

Priors decide what one photograph leaves open:

* overall exposure: colours are first divided by the mean luminance of the skin over `SKIN_LUMINANCE`, and the light is
  multiplied back. Halve the exposure of the picture, and the light halves exactly while the albedo stays.
* brightness and colour of the skin against those of the light: on a head with tone axes, the skin's mean colour is the
  one that its surroundings suggest (`skin_tone.py`), and the light is the rest. On others the model's skin has one
  luminance, and light is near white.
* light from the front against light from all around, which differ only on the hidden side: a light is a surround and
  a lamp (`light_prior`), so its nine coefficients go together as a lamp's do.

Shape suffixes: N faces, V places that are read, C = 3 colours, K = 9 harmonics, A albedo coefficients.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from rigface.colour import LUMINANCE
from rigface.face.head.open_head import SKIN_LUMINANCE, TONE_STD, TONES
from rigface.face.reconstruction.skin_tone import middle_colour, skin_reflectance
from rigface.face.rendering.lighting import harmonics, lamp_harmonics

ROUNDS = 2
RESIDUAL_SCALE = 0.05  # Cauchy scale, linear, at mean skin luminance 0.3
OUTLIER = 2.5 * RESIDUAL_SCALE  # beyond this a piece of skin counts as covered by something else
NOISE = 0.04
CORRELATED = 8.0  # neighbouring vertices see the same error: so many count as one
AMBIENT_SHARE, LAMP_SHARE = (0.45, 0.25), (0.65, 0.5)  # mean and spread of the two parts of an ordinary light
LAMP_TOWARDS = (0.0, 0.8, 1.2)  # lamps are more often above than below and in front than behind (von Mises-Fisher)
LIGHT_SLACK = 0.06  # spread that no single lamp explains, per coefficient, in units of the ambient one
DARKEST = 0.002  # of any albedo, by colour
GRAZING = 0.15  # cosine to the viewer below which a vertex is ignored
AMBIENT = 2 * np.sqrt(np.pi)  # the constant coefficient that shades white as 1 (DECA's factors, see lighting.py)


@dataclass(frozen=True, eq=False)
class Appearance:
    """Light and skin of N faces."""

    albedo: Tensor  # (N, A); faces of one track agree
    light: Tensor  # (N, 9, 3), camera frame, linear radiance: a crop's colour in [0, 1] is albedo times shading
    residual: Tensor  # (N,) median absolute difference of picture and model on visible skin, sRGB in [0, 1]
    occlusion: Tensor  # (N,) share of the visible skin that does not look like skin in this light


class AlbedoLightSolver:
    """An albedo basis at the places that are read, on its device. Stateless between calls.

    The model's units are such that its mean skin has `SKIN_LUMINANCE`, to which the constants of this module belong.

    Args:
        mean: (V, 3) albedo. basis: (A, V, 3) per standard deviation. skin: (V,) bool.
        plain: (V,) bool, skin by whose colour the tone is set; the last axes of the basis are the open head's tone.
            None for a basis without them.
        display: albedo times shading is a colour as a screen shows it (FLAME's texture) and not linear.
    """

    def __init__(
        self, mean: Tensor, basis: Tensor, skin: Tensor, *, plain: Tensor | None = None, display: bool = False
    ) -> None:
        luminance = float((mean[skin] @ mean.new_tensor(LUMINANCE)).mean()) if display else SKIN_LUMINANCE
        self.unit = SKIN_LUMINANCE / luminance
        self._mean, self._basis, self._skin = mean * self.unit, basis.flatten(1) * self.unit, skin
        self._plain, self._details = plain, len(basis) - (0 if plain is None else TONES)
        axes = torch.cat([self._mean[None], basis * self.unit])
        self._skin_axes, self._plain_axes = (axes[:, part].mean(1) for part in (skin, skin if plain is None else plain))
        self._display = (lambda colours: colours.clamp(0, 1)) if display else _display

    def __call__(self, colours: Tensor, normals: Tensor, inside: Tensor, tracks: Tensor, around: Tensor) -> Appearance:
        """Fit N faces.

        Args:
            colours: (N, V, 3) in [0, 1], linear or as the picture has them.
            normals: (N, V, 3) unit, camera frame.
            inside: (N, V) bool, the vertex is inside the crop.
            tracks: (N,) int64; faces of one number share their albedo.
            around: (N, 4) `skin_tone.surroundings`; not read without tone axes.
        """
        members = torch.unique(tracks, return_inverse=True)[1]
        facing, skin, exposure = self._seen(colours, normals, inside)
        colours = colours / exposure
        basis = harmonics(normals)
        products = light_products(basis)
        albedo = self._mean.expand(len(colours), -1, -1)
        light = colours.new_zeros(len(colours), 9, 3)
        coefficients = colours.new_zeros(len(colours), self._details)
        weight = facing
        for _ in range(ROUNDS):
            for _ in range(2):
                light = solve_light(colours, basis, albedo, weight, products)
                shading = basis @ light
                weight = facing * cauchy(colours - albedo * shading)
            coefficients = self._albedo(colours, shading, weight, members)
            albedo = self._skin_of(coefficients)
        gain: Tensor = exposure * self.unit
        if self._plain is not None:
            seen = middle_colour(colours * exposure, torch.where(self._plain, skin, 1e-3 * skin))
            coefficients, tone = self._toned(coefficients, skin_reflectance(seen, around, members))
            albedo, gain = self._skin_of(coefficients) / tone, gain / tone
        light = solve_light(colours, basis, albedo, weight, products)
        misfit = self._misfit(colours, albedo * (basis @ light), skin, exposure)
        return Appearance(coefficients, light * gain, *misfit)

    def explain(
        self, colours: Tensor, normals: Tensor, inside: Tensor, coefficients: Tensor, light: Tensor
    ) -> Appearance:
        """The misfit of a given albedo (N, A) and light (N, 9, 3); the other arguments are as of a fit."""
        _, skin, exposure = self._seen(colours, normals, inside)
        model = self._skin_of(coefficients) * (harmonics(normals) @ (light / (exposure * self.unit)))
        return Appearance(coefficients, light, *self._misfit(colours / exposure, model, skin, exposure))

    def brightness(self, coefficients: Tensor) -> Tensor:
        """(N,) mean luminance of the skins, in units of `SKIN_LUMINANCE`, from albedo coefficients (N, A)."""
        axes = self._skin_axes @ coefficients.new_tensor(LUMINANCE) / (self.unit * SKIN_LUMINANCE)
        mean: Tensor = axes[0] + coefficients @ axes[1 : 1 + coefficients.shape[1]]
        return mean

    def _toned(self, details: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """All coefficients of the skins (N, A - 3) after a change of their plain colour to the one wanted (N, 3), and
        this change (N, 1, 3) as a factor. Their details grow and shrink with the skin's luminance.
        """
        mean, axes = self._plain_axes[0], self._plain_axes[1 : 1 + self._details]
        own = mean + details @ axes
        weights = own.new_tensor(LUMINANCE)
        details = details * ((wanted @ weights) / (own @ weights))[:, None]
        tone = ((wanted - details @ axes) / mean - 1) / TONE_STD
        return torch.cat([details, tone], 1), (wanted / own)[:, None]

    def _skin_of(self, coefficients: Tensor) -> Tensor:
        flat = self._mean.flatten() + coefficients @ self._basis[: coefficients.shape[1]]
        return torch.unflatten(flat, 1, (-1, 3)).clamp(DARKEST, 1)

    def _seen(self, colours: Tensor, normals: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (N, V) of all that faces the camera and of the skin in it, and the exposure (N, 1, 1)."""
        facing = (inside & (normals[..., 2] > GRAZING)) * normals[..., 2]
        skin = facing * self._skin
        luminance = ((colours @ colours.new_tensor(LUMINANCE)) * skin).sum(1)
        exposure = (luminance / (skin.sum(1) * SKIN_LUMINANCE + 1e-6)).clamp_min(1e-4)
        return facing, skin, exposure[:, None, None]

    def _misfit(self, colours: Tensor, model: Tensor, skin: Tensor, exposure: Tensor) -> tuple[Tensor, Tensor]:
        """Residual and occlusion (N,), as in `Appearance`, of colours and model at unit exposure."""
        off = (colours - model).abs().mean(-1)
        occlusion = (skin * (off > OUTLIER)).sum(1) / (skin.sum(1) + 1e-6)
        difference = (self._display(colours * exposure) - self._display(model * exposure)).abs().mean(-1)
        return difference.masked_fill(skin <= 0, torch.nan).nanmedian(1).values, occlusion

    def _albedo(self, colours: Tensor, shading: Tensor, weight: Tensor, members: Tensor) -> Tensor:
        """Ridge regression of the albedo coefficients, one set per track, prior N(0, 1)."""
        count, size = len(colours), self._details
        basis = self._basis[:size]
        root = (weight[..., None] / (NOISE**2 * CORRELATED)).sqrt()
        scaled = shading * root
        gap = colours * root - self._mean * scaled
        groups = int(members.max()) + 1 if count else 0
        # Both sides are linear in these, so the faces of a track are added up before any product with the basis.
        squares = colours.new_zeros(groups, basis.shape[1]).index_add(0, members, scaled.square().flatten(1))
        pull = colours.new_zeros(groups, basis.shape[1]).index_add(0, members, (gap * scaled).flatten(1))
        normal = torch.eye(size, device=colours.device) + (basis * squares[:, None]) @ basis.mT
        solved: Tensor = torch.linalg.solve(normal, pull @ basis.mT)
        return solved[members]


def light_products(basis: Tensor) -> Tensor:
    """(N, V, 9) harmonics to (N, V, 45) products of two, from which every normal matrix of the light is one product."""
    return torch.cat([basis[..., k:] * basis[..., k : k + 1] for k in range(9)], dim=-1)


def solve_light(colours: Tensor, basis: Tensor, albedo: Tensor, weight: Tensor, products: Tensor) -> Tensor:
    """Ridge regression of the light (N, 9, 3), the albedo held; colours at unit exposure.

    Args:
        colours: (N, V, 3). basis: (N, V, 9). albedo: (N, V, 3) or broadcastable. weight: (N, V).
        products: (N, V, 45), `light_products(basis)`.
    """
    mean, precision = (colours.new_tensor(part) for part in light_prior())
    weighted = albedo * (weight / (NOISE**2 * CORRELATED))[..., None]  # (N, V, C)
    normal = ((weighted * albedo).mT @ products)[..., _SQUARE.to(colours.device)] + precision
    right = (weighted * colours).mT @ basis + precision @ mean
    light: Tensor = torch.linalg.solve(normal, right)
    return light.mT


_PAIRS = torch.combinations(torch.arange(9), with_replacement=True)
_SQUARE = torch.zeros(9, 9, dtype=torch.int64)  # where the product of two harmonics stands among the 45
_SQUARE[_PAIRS[:, 0], _PAIRS[:, 1]] = _SQUARE[_PAIRS[:, 1], _PAIRS[:, 0]] = torch.arange(45)


@cache
def light_prior() -> tuple[np.ndarray, np.ndarray]:
    """Prior of the light at unit exposure: mean (9,) and precision (9, 9) of a Gaussian over the coefficients.

    The moments of `ambient + intensity * lamp(direction)` with ambient and intensity as `AMBIENT_SHARE` and
    `LAMP_SHARE` say, and directions spread over the sphere around `LAMP_TOWARDS`. Symmetric between left and right.
    """
    count = 4096
    k = np.arange(count) + 0.5
    height, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - height**2)
    around = np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], -1)
    around = np.concatenate([around, around * [-1, 1, 1]])
    share = np.exp(around @ LAMP_TOWARDS)
    share /= share.sum()
    lamps = lamp_harmonics(torch.from_numpy(around)).numpy()
    first, second = share @ lamps, (lamps * share[:, None]).T @ lamps
    (ambient, ambient_std), (power, power_std) = AMBIENT_SHARE, LAMP_SHARE
    mean = power * first
    mean[0] += ambient * AMBIENT
    spread = (power**2 + power_std**2) * second - power**2 * np.outer(first, first)
    spread[0, 0] += (ambient_std * AMBIENT) ** 2
    spread += (LIGHT_SLACK * AMBIENT) ** 2 * np.eye(9)
    return mean, np.linalg.inv(spread)


def cauchy(residual: Tensor) -> Tensor:
    """(N, V, 3) residuals to (N, V) weights in (0, 1]."""
    return 1 / (1 + (residual.abs().mean(-1) / RESIDUAL_SCALE).square())


def _display(linear: Tensor) -> Tensor:
    """A fast stand-in for the sRGB curve, good enough to weigh differences: gamma 2.2."""
    return linear.clamp(0, 1).pow(1 / 2.2)
