"""Crop rules of published face models.

Path: a detector's box, or 68 landmarks of the 512 px crop -> square, affine -> crop -> `networks/`.
Source: the crop functions of RigFace, DECA, EMOCA, SMIRK, Face-Adapter's d3dfr and Deep3DFaceRecon, as facts; reference
figures are in tests/fixtures/official.

Conventions: here alone pixel centres are at whole numbers, as in the authors' code: subtract 0.5 from crop px first.
Affines are (2, 3), source to crop. Landmarks without extent, or not numbers, give the whole 512 px crop or a black
picture.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.types import CROP_PX

FLAME_PX = 224  # side of the crops of DECA, EMOCA, SMIRK and Deep3DFaceRecon
D3DFR_PX = 256
# Right eye, left eye, nose, right and left mouth corner (the person's), where d3dfr wants them.
D3DFR_POINTS = np.array(
    [[92.589, 103.393], [163.064, 103.003], [128.050, 143.473], [99.099, 184.731], [157.460, 184.408]]
)
_DEEP3D_SCALE = 102.0
_MAX_PX = 8192  # a picture is not enlarged beyond this: its face would be a few pixels wide


@dataclass(frozen=True)
class SquareRule:
    """Crop by the bounding box of 68 landmarks."""

    growth: float  # side of the square in means of the box's width and height
    whole_levels: bool = False  # colours are cut down to whole grey levels after the warp


DECA = SquareRule(1.1 * 1.25)  # EMOCA's, too
RIGFACE_DECA = SquareRule(1.1 * 1.3)  # DECA as RigFace runs it
SMIRK = SquareRule(1.4, whole_levels=True)


def square_around(points: np.ndarray, rule: SquareRule) -> np.ndarray:
    """Squares (N, 3) float64, centre x, y and side in px, around points (N, L, 2); the side is a whole number."""
    low, high = points.astype(np.float64).min(1), points.astype(np.float64).max(1)
    side = np.trunc((high - low).mean(1) * rule.growth)
    squares = np.concatenate([(low + high) / 2, side[:, None]], axis=1)
    squares[~(side > 0)] = (CROP_PX / 2, CROP_PX / 2, CROP_PX)  # also if it is not a number
    return squares


def square_affine(squares: np.ndarray, size: int = FLAME_PX) -> np.ndarray:
    """Affines (N, 2, 3) float64 that bring squares (N, 3) to pixels 0 to size - 1 of a crop."""
    scale = (size - 1) / squares[:, 2]
    corner = squares[:, :2] - squares[:, 2:] / 2
    return np.concatenate([scale[:, None, None] * np.eye(2), -(scale[:, None] * corner)[..., None]], axis=2)


def square_camera(camera: Tensor, squares: np.ndarray, picture: int = CROP_PX) -> Tensor:
    """Weak-perspective cameras (N, 3) over a square, in the picture of that side around it.

    scale' = s k, shift' = (tx + ox / (s k), ty + oy / (s k)): k is the square's scale, (ox, oy) its place, y up.
    """
    x, y, side = camera.new_tensor(squares).unbind(1)
    half = picture / 2
    scale = camera[:, 0] * FLAME_PX / 2 * side / ((FLAME_PX - 1) * half)
    off = side * (FLAME_PX / 2 / (FLAME_PX - 1) - 0.5)
    place = torch.stack([(x + off) / half - 1, 1 - (y + off) / half], 1)
    return torch.cat([scale[:, None], camera[:, 1:] + place / scale[:, None]], 1)


def similarity(points: np.ndarray, template: np.ndarray = D3DFR_POINTS) -> np.ndarray:
    """Similarities (N, 2, 3) float64, without reflection, that bring points (N, L, 2) closest to a template (L, 2)."""
    z, w = (p.astype(np.float64) @ (1, 1j) for p in (points, template))
    z_mean, w_mean = z.mean(-1), w.mean(-1)
    z = z - z_mean[:, None]
    with np.errstate(invalid="ignore"):
        turn = (z.conj() @ (w - w_mean)) / (np.abs(z) ** 2).sum(1)
    shift = w_mean - turn * z_mean
    rows = [turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag]
    return np.stack(rows, 1).reshape(-1, 2, 3)


def warp(pictures: Sequence[np.ndarray], affines: np.ndarray, size: int, device: str = "cpu") -> Tensor:
    """Crops (N, 3, size, size) float32, 0-255, of pictures (H, W, 3) uint8: bilinear, zero outside."""
    ticks = torch.arange(size, dtype=torch.float64, device=device)
    place = torch.stack(
        [ticks.expand(size, size), ticks[:, None].expand(size, size), torch.ones_like(ticks).expand(size, size)], -1
    )
    out = torch.empty(len(pictures), 3, size, size, device=device)
    for crop, picture, affine in zip(out, pictures, affines, strict=True):
        if not np.isfinite(affine).all():
            crop.zero_()
            continue
        back = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2]
        extent = np.array(picture.shape[1::-1]) - 1
        back = (back * 2 / extent[:, None]) - [[0, 0, 1]]  # to [-1, 1] from the first to the last pixel's centre
        grid = (place @ torch.from_numpy(back.T).to(device)).float()
        image = torch.from_numpy(np.ascontiguousarray(picture)).to(device).permute(2, 0, 1)[None].float()
        crop[:] = F.grid_sample(image, grid[None], align_corners=True)[0]
    return out


def flame_crops(pictures: Sequence[np.ndarray], squares: np.ndarray, rule: SquareRule, device: str = "cpu") -> Tensor:
    """Input (N, 3, 224, 224) float32 in [0, 1] of a FLAME encoder: squares (N, 3) of pictures (H, W, 3) uint8."""
    crops = warp(pictures, square_affine(squares), FLAME_PX, device)
    return ((crops + 1e-5).floor() if rule.whole_levels else crops) / 255  # 1e-5: float32's rounding below a level


def deep3d_model_points(file: str | os.PathLike[str]) -> np.ndarray:
    """The five 3D points (5, 3) float64 that Deep3DFaceRecon aligns to, from `similarity_Lm3D_all.mat`.

    Raises:
        MissingAsset: there is no such file.
        BadCheckpoint: it is no MATLAB file with `lm` (68, 3).
    """
    from scipy.io import loadmat  # a tenth of a second
    from scipy.io.matlab import MatReadError

    if not os.path.isfile(file):
        raise MissingAsset(f"{file} is not there; it lies beside BFM_model_front.mat in Deep3DFaceRecon's BFM folder")
    try:
        points = np.asarray(loadmat(file, variable_names=["lm"])["lm"], np.float64)
    except (KeyError, ValueError, NotImplementedError, TypeError, MatReadError) as error:
        raise BadCheckpoint(
            f"{file}: want a MATLAB file with `lm`, the 68 points of similarity_Lm3D_all.mat"
        ) from error
    if points.shape != (68, 3):
        raise BadCheckpoint(f"{file}: want `lm` (68, 3), got {points.shape}")
    return deep3d_five(points)


def deep3d_five(points: np.ndarray) -> np.ndarray:
    """Five (..., 5, C) of iBUG's 68 points (..., 68, C): right and left eye, nose, right and left mouth corner."""
    eyes = (points[..., [36, 42], :] + points[..., [39, 45], :]) / 2
    return np.concatenate([eyes, points[..., [30, 48, 54], :]], -2)


def deep3d_alignment(points: np.ndarray, model: np.ndarray, height: int) -> np.ndarray:
    """Scale and centre (3,) float64 of Deep3DFaceRecon's crop: the orthographic camera that fits five points best.

    Args:
        points: (5, 2) px of the picture, y down.
        model: (5, 3), `deep3d_model_points`.
        height: of the picture; y is measured from its last row.
    """
    up = np.stack([points[:, 0], height - 1 - points[:, 1]], 1).astype(np.float64)
    if not np.isfinite(up).all():
        return np.full(3, np.nan)
    solved = np.linalg.lstsq(np.concatenate([model, np.ones((5, 1))], 1), up, rcond=None)[0]
    with np.errstate(divide="ignore"):
        return np.array([_DEEP3D_SCALE / np.linalg.norm(solved[:3], axis=0).mean(), *solved[3]])


def deep3d_crop(picture: np.ndarray, alignment: np.ndarray) -> np.ndarray:
    """The aligned picture (224, 224, 3) uint8 of a picture (H, W, 3) uint8: bicubic, black outside."""
    scale, x, y = alignment
    height, width = picture.shape[:2]
    if not (np.isfinite(alignment).all() and scale * max(picture.shape) <= _MAX_PX):
        return np.zeros((FLAME_PX, FLAME_PX, 3), np.uint8)
    size = int(width * scale), int(height * scale)
    half = FLAME_PX / 2
    left = int(size[0] / 2 - half + (x - width / 2) * scale)
    top = int(size[1] / 2 - half + (height / 2 - y) * scale)
    resized = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + FLAME_PX, top + FLAME_PX)))
