"""Estimate the reflectance of a skin from what its picture shows beside it.

Path: crop -> surroundings; colour of the skin, surroundings -> skin_reflectance -> the tone axes of the albedo, and so
the light, in `albedo_light.py`.
Source: the brightest of a picture is white (white patch; Land and McCann, "Lightness and Retinex Theory", 1971), its
mean is grey (grey world; Buchsbaum, "A spatial processor model for object colour perception", 1980).

A picture gives skin times light. Two people under one lamp and one person under two lamps look alike until something
else is in view, so reflectance is that of skin over white: exposure cancels, exactly. There is no pull to a mean tone,
which would make dark skin pale skin in dim light. The colour has one, because colour casts of photographs vary as much
as skin does; its constants were chosen on the 2,237 inputs of people who may shape this project
(`benchmarks/skin_tone.py`).

Where nothing bright is in view, skin reads too pale and the light too dim; in the shade of a bright scene, skin reads
too dark. The white of the whole frame and that of the face itself, where there is a frame, mend some of it
(`frame_white.py`).
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from rigface.colour import LUMINANCE
from rigface.face.reconstruction.frame_white import RANGE, SIDE_PX, WHITE, white_of
from rigface.image import resized, srgb8_to_linear

PAPER = 0.9  # reflectance of what counts as white
HUE = (1.67, 0.84, 0.58)  # mean colour of skin at luminance 1
OWN_HUE = 0.5  # of a skin's distance from HUE is its own, the rest is the light's
GREY_WORLD = 0.33  # of the surroundings' colour cast is the light's


def surroundings(crop: np.ndarray) -> np.ndarray:
    """(4,) float32 linear: the white of a crop (S, S, 3) uint8, and the mean colour outside its middle half."""
    small = resized(crop, SIDE_PX)
    return np.array([white_of(small, WHITE), *cv2.mean(srgb8_to_linear(small), _RIM)[:3]], np.float32)


_RIM = np.ones((SIDE_PX, SIDE_PX), np.uint8)
_RIM[SIDE_PX // 4 : -SIDE_PX // 4, SIDE_PX // 4 : -SIDE_PX // 4] = 0


def middle_colour(colours: Tensor, weight: Tensor) -> Tensor:
    """Mean (N, 3) of colours (N, V, 3) with weights (N, V), without the darkest and the brightest fifth."""
    order = (colours @ colours.new_tensor(LUMINANCE)).argsort(1)
    share = weight.gather(1, order)
    rank = (share.cumsum(1) - share / 2) / (share.sum(1, keepdim=True) + 1e-9)
    share = share * ((rank > 0.2) & (rank < 0.8))
    ordered = colours.gather(1, order[..., None].expand_as(colours))
    mean: Tensor = (ordered * share[..., None]).sum(1) / (share.sum(1) + 1e-9)[:, None]
    return mean


def skin_reflectance(skin: Tensor, around: Tensor, members: Tensor) -> Tensor:
    """Mean reflectance (N, 3) of skins, linear, one per track.

    Args:
        skin: (N, 3) its mean colour as photographed, linear. around: (N, 4) `surroundings`.
        members: (N,) int64, tracks numbered from 0.
    """
    weights = skin.new_tensor(LUMINANCE)
    seen, cast = skin.clamp_min(1e-5), around[:, 1:].clamp_min(1e-5)
    brightness = (seen @ weights)[:, None]
    lightness = (PAPER * brightness / around[:, :1].clamp_min(1e-5)).log()
    expected = skin.new_tensor(HUE).log()
    hue = (seen / brightness).log() - GREY_WORLD * (cast / (cast @ weights)[:, None]).log()
    hue = expected + OWN_HUE * (hue - expected)
    count = int(members.max()) + 1 if len(members) else 0
    mean = skin.new_zeros(count, 4).index_add(0, members, torch.cat([lightness, hue], 1))
    mean = (mean / torch.bincount(members, minlength=count)[:, None])[members]
    colour = mean[:, 1:].exp()
    level = mean[:, :1].exp().clamp(*RANGE)
    return colour * (level / (colour @ weights)[:, None])
