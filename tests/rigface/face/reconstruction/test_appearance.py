"""Skin and light on a head in FLAME's layout: they are found again in pictures drawn with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigface.face.head.flame import load_flame
from rigface.face.head.overlay import lay_over, with_open_albedo
from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.reconstruction.appearance import AppearanceFitter
from rigface.face.rendering.lighting import lamp_harmonics
from rigface.face.rendering.renderer import render_vertices
from rigface.image import linear_to_srgb
from rigface.testing.official.flame import write_flame

CAMERA = torch.tensor([[6.5, 0.0, 0.01]])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The open head as FLAME, without an albedo."""
    return load_flame(write_flame(tmp_path_factory.mktemp("flame"), steps=1, texture=False))


@pytest.fixture(scope="module")
def vertex_head(plain):
    return with_open_albedo(plain)


@pytest.fixture(scope="module")
def texture_head(plain):
    """An albedo in texture space, as a screen shows it: one direction brightens, one reddens the lower half."""
    mean = torch.tensor([0.75, 0.55, 0.45]).expand(32, 32, 3).clone()
    basis = torch.zeros(32, 32, 3, 2)
    basis[..., 0] = 0.05
    basis[16:, :, 0, 1] = 0.08
    spec = replace(plain.spec, albedo=2, colours="display")
    return replace(plain, spec=spec, texture_mean=mean, texture_basis=basis)


def light(strength, towards):
    lamp = lamp_harmonics(torch.nn.functional.normalize(torch.tensor(towards), dim=0))
    out = strength * lamp[:, None].expand(9, 3).clone()
    out[0] += 0.5 * strength * AMBIENT
    return out[None]


def drawn(head, albedo, its_light):
    """A crop of the head at rest, and its vertices."""
    vertices = head.vertices(torch.zeros(1, 100), torch.zeros(1, 50), torch.zeros(1, 3))
    image = render_vertices(head, vertices, CAMERA, its_light, head.albedo(albedo)).image[0].permute(1, 2, 0)
    values = image.clamp(0, 1).numpy()
    shown = linear_to_srgb(values) if head.spec.colours == "linear" else values
    return (shown * 255 + 0.5).astype(np.uint8), vertices


def test_open_albedo_is_that_of_the_same_place(vertex_head):
    """Laid over itself, the head has its own albedo at its own vertices."""
    overlay = lay_over(vertex_head)
    assert (overlay.nearest[:468] == np.arange(468)).mean() > 0.95
    assert overlay.is_face.all()
    assert vertex_head.spec.albedo_source.startswith("open:")


@pytest.mark.parametrize("name", ["vertex_head", "texture_head"])
def test_drawn_light_and_skin_are_found_again(request, name):
    head = request.getfixturevalue(name)
    albedo = torch.zeros(1, head.spec.albedo)
    albedo[0, 1] = 1.0
    crop, vertices = drawn(head, albedo, light(0.7, [0.6, 0.3, 0.7]))
    fitter = AppearanceFitter(head)
    found = fitter.fit([crop], vertices, CAMERA, torch.zeros(1, dtype=torch.int64))
    assert found.residual[0] < 0.01
    assert found.occlusion[0] < 0.05
    again, _ = drawn(head, found.albedo, found.light)
    inside = crop.any(-1)
    assert np.abs(again[inside].astype(int) - crop[inside]).mean() < 4  # of 255


def test_given_skin_and_light_explain_their_picture(texture_head):
    albedo, its_light = torch.tensor([[1.0, -1.0]]), light(0.6, [-0.5, 0.2, 0.8])
    crop, vertices = drawn(texture_head, albedo, its_light)
    fitter = AppearanceFitter(texture_head)
    right = fitter.explain([crop], vertices, CAMERA, albedo, its_light)
    wrong = fitter.explain([crop], vertices, CAMERA, albedo, light(0.6, [0.5, 0.2, 0.8]))
    assert right.residual[0] < 0.01 < 0.03 < wrong.residual[0]
    few = fitter.explain([crop], vertices[:, fitter.vertices], CAMERA, albedo, its_light)
    assert torch.allclose(few.residual, right.residual, atol=1e-6)


def test_head_without_albedo_is_refused(plain):
    with pytest.raises(ValueError, match="the flame head has no albedo; load it with `load_head`"):
        AppearanceFitter(plain)
