"""Spherical-harmonic lighting against hand-computed values and the reference's shading."""

import math

import pytest
import torch
from safetensors.torch import load_file

from rigface.face.rendering.lighting import (
    harmonics,
    lamp_harmonics,
    light_direction,
    mean_shading,
    shade,
)


def random_normals(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_ambient_light_is_uniform():
    light = torch.zeros(1, 9, 3)
    light[:, 0] = math.sqrt(4 * math.pi)  # cancels Y00
    assert torch.allclose(shade(random_normals(1, 4, 4), light), torch.ones(1, 4, 4, 3))


def test_harmonics_have_the_encoders_order():
    up = harmonics(torch.tensor([0.0, 1.0, 0.0]))
    assert up[2] > 0
    assert up[1] == up[3] == 0  # third coefficient is y


def test_distant_lamp_shades_by_the_cosine():
    """Project a lamp on the harmonics and shade with it: the series is the clamped cosine to a few percent."""
    lamp = torch.nn.functional.normalize(torch.tensor([0.3, 0.4, 0.86]), dim=0)
    x, y, z = lamp
    y_lm = torch.stack([torch.ones(()), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1])
    norm = (
        [1 / (4 * math.pi)]
        + [3 / (4 * math.pi)] * 3
        + [15 / (4 * math.pi)] * 3
        + [15 / (16 * math.pi), 5 / (16 * math.pi)]
    )
    light = y_lm * torch.tensor(norm).sqrt()
    light[0] *= math.pi  # the module's one deviation, undone
    normals = random_normals(1, 500)
    got = shade(normals, light[None, :, None].expand(1, 9, 3))[0, :, 0]
    assert (got - (normals[0] @ lamp).clamp(min=0)).abs().max() < 0.1


def test_shading_matches_the_reference(fixtures):
    """Outside of the head both shade a normal of zero, which shows the first factor and the last alone."""
    figures = load_file(fixtures / "flame" / "io.safetensors")
    normals = figures["normal_image"].permute(0, 2, 3, 1)
    got = shade(normals, figures["light"][[0, 3]]).permute(0, 3, 1, 2)
    assert torch.allclose(got, figures["shading"], atol=1e-5)


def test_light_direction_is_the_brightest_normal():
    light = torch.zeros(2, 9, 3)
    light[:, 0] = 1
    light[0, 1] = 0.5  # from x, the viewer's right
    assert torch.allclose(light_direction(light), torch.tensor([[1.0, 0, 0], [0, 0, 0]]))


def test_wrong_light_shape_is_refused():
    with pytest.raises(ValueError, match=r"want \(2, 9, 3\)"):
        shade(torch.zeros(2, 1, 1, 3), torch.zeros(1, 9, 3))


def test_mean_shading_is_the_mean_over_the_visible_disc():
    x, y = torch.meshgrid(*[torch.linspace(-1, 1, 401, dtype=torch.double)] * 2, indexing="ij")
    inside = x**2 + y**2 < 1
    normals = torch.stack([x, y, (1 - x**2 - y**2).clamp_min(0).sqrt()], -1)[inside]
    light = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    assert torch.allclose(mean_shading(light)[0], shade(normals[None], light)[0].mean(0), atol=5e-3)


def test_lamp_harmonics_shade_by_the_clamped_cosine():
    towards = torch.nn.functional.normalize(torch.tensor([[0.3, 0.5, 0.8]], dtype=torch.double), dim=-1)
    normals = torch.nn.functional.normalize(
        torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).double(), dim=-1
    )
    light = lamp_harmonics(towards)[..., None].expand(1, 9, 3).contiguous()
    assert (shade(normals[None], light)[0, :, 0] - (normals @ towards[0]).clamp_min(0)).abs().max() < 0.1
