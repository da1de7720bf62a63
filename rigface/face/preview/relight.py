"""Relight a photograph with any head model, by the ratio of two shadings.

Path: crop, its coefficients, another light -> relit -> staged sources of training examples on heads that have no
preview (FLAME).
Source: ratio images (Riklin-Raviv & Shashua 2001), as in `warp.py`.
"""

import cv2
import numpy as np
import torch

from rigface.face.head.head_model import Head
from rigface.face.preview.warp import DARKEST, RATIO
from rigface.face.rendering.lighting import shade
from rigface.face.rendering.renderer import render
from rigface.types import FaceParams

SOFT = 0.015  # of the side: the change fades out over this much at the outline of the head


def relit(head: Head, crop: np.ndarray, params: FaceParams, light: np.ndarray) -> np.ndarray:
    """The crop (S, S, 3) uint8 of a face, as if lit by another light (9, 3) in the space of the head's colours."""
    size = len(crop)
    drawn = render(head, params.map(one_row), size=size)
    lights = torch.from_numpy(np.stack([params.light, light]).astype(np.float32))
    before, after = shade(drawn.normal_image[0].permute(1, 2, 0).expand(2, -1, -1, -1), lights).numpy()
    inside = drawn.alpha[0, 0].numpy()
    if not inside.any():
        return crop
    floor = DARKEST * max(float(before[inside > 0].mean()), 1e-4)
    ratio = np.clip(np.maximum(after, floor) / np.maximum(before, floor), *RATIO)
    width = 2 * round(SOFT * size) + 1
    share = cv2.blur(inside, (width, width))[..., None] * inside[..., None]
    return np.asarray((crop * (1 + share * (ratio - 1)) + 0.5).clip(0, 255).astype(np.uint8))


def one_row(values: np.ndarray) -> torch.Tensor:
    """Coefficients of one face as a batch of one."""
    return torch.from_numpy(np.ascontiguousarray(values))[None]
