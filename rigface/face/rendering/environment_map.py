"""A picture of the surroundings to nine numbers per colour: the light of a real place on a face.

Path: equirectangular picture (.hdr, or any picture) -> read -> harmonics_of -> `LightEdit.sh`.
Source: Ramamoorthi & Hanrahan, "An Efficient Representation for Irradiance Environment Maps", SIGGRAPH 2001, eq. 10
(projection) and 13 (irradiance); the factors are those of `lighting.py`, so that a white surface in a uniformly white
place is shaded 1.

The panorama is the view from the face: **its middle is the direction of the camera**, up is up, and it goes once
around. The face looks at its middle, so what is right of the middle is on the person's right, the viewer's left.
`turn_deg` turns the place around the person; positive moves every lamp to the viewer's right.

A picture with 8 bits is taken as sRGB. Its lamps are cut off at white, so they come out too weak; an .hdr knows better.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from rigface.errors import BadImage
from rigface.face.rendering.lighting import harmonics
from rigface.image import decode_linear

WORK_PX = 256  # height that panoramas are averaged down to first: nine numbers know nothing finer
_LOBE = np.array([1.0, *[2 * np.pi / 3] * 3, *[np.pi / 4] * 5])  # what `harmonics` holds beside the plain Y_lm
_UNIT = np.array([1.0, *[np.pi] * 8])  # of its coefficients: A_0 is 1 there and pi in the paper


def read_environment_map(path: str | Path, read: Callable[[bytes], np.ndarray] = decode_linear) -> np.ndarray:
    """A panorama from a file, decoded by `read`: (H, 2 H, 3) float32 RGB, linear.

    BadImage if it is no picture, or not twice as wide as high.
    """
    picture = read(Path(path).read_bytes())
    height, width = picture.shape[:2]
    if abs(width - 2 * height) > 0.02 * width:
        raise BadImage(
            f"a panorama is twice as wide as high (360 by 180 degrees), this is {width} x {height}. "
            "Export it as equirectangular (latitude-longitude)"
        )
    return picture


def harmonics_of(panorama: np.ndarray, turn_deg: float = 0.0) -> np.ndarray:
    """(9, 3) float32 coefficients of the light of a place, as in `FaceParams.light`.

    The panorama (H, 2 H, 3) is linear radiance, oriented as the module's text says; `turn_deg` turns the place around
    the person. ValueError for another shape, or numbers that are no radiance.
    """
    panorama = np.asarray(panorama, np.float32)
    if panorama.ndim != 3 or panorama.shape[2] != 3:
        raise ValueError(f"panorama: want (H, W, 3), got {panorama.shape}")
    if not np.isfinite(panorama).all() or (panorama < 0).any():
        raise ValueError("panorama: want finite numbers, at least 0")
    if len(panorama) > WORK_PX:
        panorama = cv2.resize(panorama, (2 * WORK_PX, WORK_PX), interpolation=cv2.INTER_AREA)
    height, width = panorama.shape[:2]
    latitude = np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi
    longitude = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi - np.radians(turn_deg)
    # The person looks at the middle (z, towards the camera) and has the right half on their right (-x).
    towards = np.empty((height, width, 3))
    towards[..., 0] = -np.cos(latitude)[:, None] * np.sin(longitude)
    towards[..., 1] = np.sin(latitude)[:, None]
    towards[..., 2] = np.cos(latitude)[:, None] * np.cos(longitude)
    edges = np.pi / 2 - np.arange(height + 1) / height * np.pi
    area = -np.diff(np.sin(edges)) * (2 * np.pi / width)  # solid angle of each pixel of a row
    basis = harmonics(torch.from_numpy(towards.reshape(-1, 3))).numpy() / _LOBE
    radiance = (panorama * area[:, None, None]).reshape(-1, 3).astype(np.float64)
    return np.asarray((basis.T @ radiance / _UNIT[:, None]).astype(np.float32))
