"""Reflectance of skin from crops and colours with known white, grey and skin."""

import numpy as np
import pytest
import torch

from rigface.colour import LUMINANCE
from rigface.face.reconstruction.skin_tone import HUE, PAPER, RANGE, middle_colour, skin_reflectance, surroundings

SKIN = torch.tensor([[0.3, 0.2, 0.1], [0.15, 0.08, 0.05]])
AROUND = torch.tensor([[0.8, 0.3, 0.3, 0.3], [0.9, 0.2, 0.3, 0.4]])
STRANGERS = torch.arange(2)


def luminance(colour: torch.Tensor) -> torch.Tensor:
    return colour @ colour.new_tensor(LUMINANCE)


def test_white_is_bright_and_larger_than_a_spark():
    crop = np.full((512, 512, 3), 100, np.uint8)
    crop[:8, :8] = 255
    assert surroundings(crop)[0] == pytest.approx(0.127, abs=0.002)  # sRGB 100
    crop[:40, :100, 0] = 220
    assert surroundings(crop)[0] == pytest.approx(0.716, abs=0.01)


def test_middle_of_the_crop_is_no_surrounding():
    crop = np.full((256, 256, 3), (0, 100, 100), np.uint8)
    crop[64:192, 64:192] = 255
    assert surroundings(crop)[1:] == pytest.approx([0, 0.127, 0.127], abs=0.002)


def test_reflectance_is_skin_over_white():
    found = skin_reflectance(SKIN, AROUND, STRANGERS)
    assert torch.allclose(luminance(found), PAPER * luminance(SKIN) / AROUND[:, 0])


def test_exposure_of_the_whole_picture_cancels():
    assert torch.allclose(
        skin_reflectance(SKIN / 2, AROUND / 2, STRANGERS), skin_reflectance(SKIN, AROUND, STRANGERS), rtol=1e-4
    )


def test_colour_cast_of_skin_and_surroundings_is_mostly_the_lights():
    cast = torch.tensor([1.3, 1.0, 0.7])
    under = AROUND * torch.cat([torch.ones(1), cast])
    plain, warm = skin_reflectance(SKIN, AROUND, STRANGERS), skin_reflectance(SKIN * cast, under, STRANGERS)
    change = (warm[:, 0] / warm[:, 2]) / (plain[:, 0] / plain[:, 2])
    assert change == pytest.approx([(1.3 / 0.7) ** 0.335] * 2, rel=0.01)


def test_grey_skin_gets_half_the_colour_of_skin():
    grey = skin_reflectance(torch.full((1, 3), 0.2), torch.tensor([[0.8, 0.3, 0.3, 0.3]]), torch.zeros(1).long())
    assert grey[0, 0] / grey[0, 2] == pytest.approx((HUE[0] / HUE[2]) ** 0.5, rel=0.01)


def test_track_shares_the_geometric_mean():
    alone = skin_reflectance(SKIN, AROUND, STRANGERS)
    together = skin_reflectance(SKIN, AROUND, torch.zeros(2).long())
    assert torch.equal(together[0], together[1])
    assert luminance(together)[0] == pytest.approx(float(luminance(alone).prod().sqrt()), rel=1e-4)


def test_reflectance_stays_that_of_people():
    found = skin_reflectance(SKIN, AROUND * torch.tensor([[0.2], [20.0]]), STRANGERS)
    assert luminance(found) == pytest.approx(list(reversed(RANGE)), rel=1e-4)


def test_no_faces_give_no_reflectance():
    assert skin_reflectance(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0).long()).shape == (0, 3)


def test_middle_colour_leaves_highlight_and_shadow_out():
    colours = torch.tensor([0.0, 0.2, 0.3, 0.3, 0.4, 1.0])[None, :, None].expand(1, 6, 3)
    assert middle_colour(colours, torch.ones(1, 6))[0] == pytest.approx([0.3] * 3)
    assert middle_colour(colours, torch.tensor([[0.0, 0, 1, 0, 0, 0]]))[0] == pytest.approx([0.3] * 3)
