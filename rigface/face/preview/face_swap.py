"""Face swap without a network: another person's face in the place of one, in its pose, expression and light.

Path: both crops with their coefficients -> the donor's preview in the recipient's pose, expression and camera -> bent
onto the recipient's rim -> given the recipient's tones -> laid over the recipient's skin.

* Eyes, nose and mouth keep the donor's proportions. Towards the rim, and where the face turns away from the viewer, the
  surface becomes the recipient's, so that outline, hair, ears and neck of the picture still fit.
* The light is the recipient's by its tones: wide means over skin are made equal, near the rim those of every place, so
  that no seam shows. The donor's contrast around them is no stronger than the recipient's. Brows, eyes and lips have no
  part in the means. (To relight the donor by the two fitted lights as well leaves blots where they are wrong.)
* Hair over forehead and cheeks, the donor's or the recipient's, is told from skin by its colour without the light; the
  recipient's own picture stays there. So does the inside of an open mouth.

Smooth maps (bend, cover, tones) are computed at `SMALL` px for any size of picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import torch

from rigface.face.geometry import alignment
from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.contours import CONTOURS
from rigface.face.geometry.mesh import boundary_loop
from rigface.face.geometry.rotation import to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.face.preview.compositing import paste_crop
from rigface.face.preview.relight import one_row
from rigface.face.preview.warp import GAMMA, Previewer
from rigface.face.rendering.lighting import shade
from rigface.face.rendering.rasterizer import rasterize
from rigface.face.rendering.renderer import vertex_normals
from rigface.image import resized
from rigface.types import CROP_PX, Face, FaceParams

SMALL = 256
STEPS = 1  # subdivisions of the head's mesh
# Pairs are the ends of a smooth step, of distances in mm on the mean face.
OWN_MM = (6.0, 30.0)  # from the rim: the recipient's surface, and the donor's
FACING = (0.12, 0.45)  # cosine to the viewer, likewise
LIPS_MM = (2.0, 14.0)  # from the opening of an open mouth, likewise
OPEN = (0.0005, 0.002)  # area of that opening, of the crop's: closed, and open
COVER_MM = (1.0, 9.0)  # from the rim: where the donor's skin begins, and where it covers
RIM_MM = (6.0, 24.0)  # from the rim: tones of each place, and of wide means
FEATURE_MM = (3.0, 8.0)  # from eyes, brows and lips: no skin, and skin
BROW_MM, LIP_MM, BESIDE_MM = (
    (0.0, 6.0),
    (0.0, 10.0),
    (28.0, 40.0),
)  # above the brows, or the lips and near the rim: hair
HAIR_DARK, HAIR_TINT = (0.45, 0.8), (12.0, 22.0)  # darker than the skin, in logs; and of another colour, in Lab
HAIR_PX = 5  # of `SMALL`, by which hair is grown
WIDE, NEAR = 0.07, 0.03  # spread of the means, of the crop's side
EDGE = 0.006  # of the crop's side: spread of the cover
LOCAL = 0.9  # log of the largest ratio between places of the face beside the rim
CONTRAST = (0.4, 1.15)  # least contrast that is kept, of the donor's; and the largest, of the recipient's
BLACK, KNEE = 4.0, 225.0  # grey level below which nothing is told apart; and above which brightness is compressed
EYES, LIPS, BROWS = CONTOURS[1:3], CONTOURS[5:7], CONTOURS[7:11]


@dataclass(frozen=True, eq=False)
class Swapped:
    """The picture of a swap."""

    image: np.ndarray  # (S, S, 3) uint8
    mask: np.ndarray  # (S, S) uint8: how much of each pixel is the donor's


class FaceSwapper:
    """Draws swaps on the open head. Stateless between calls."""

    def __init__(self) -> None:
        self._head, self._previewer = OpenHead.load().head(STEPS), Previewer()

    def params(self, face: FaceParams, donor: FaceParams) -> FaceParams:
        """The coefficients of one face, numpy, with the donor's shape and albedo, in the same place of the crop."""
        out = replace(face, shape=donor.shape, albedo=donor.albedo)
        goal = project(self._posed(face)[0], torch.from_numpy(face.camera))[:, :2].numpy()
        points = self._posed(out)[0][:, :2].numpy()
        centred = points - points.mean(0)
        scale = float((centred * (goal - goal.mean(0))).sum() / (centred**2).sum())
        return replace(out, camera=np.array([scale, *(goal.mean(0) / scale - points.mean(0))], np.float32))

    def __call__(self, crop: np.ndarray, face: FaceParams, donor: Face) -> Swapped:
        """The donor's face in a crop (S, S, 3) uint8 that shows a face with these coefficients, numpy."""
        size, wanted = len(crop), self.params(face, donor.params)
        posed, normals = self._posed(face)
        goal, points = (self._px(p, of) for p, of in ((posed, face), (self._posed(wanted)[0], wanted)))
        mouth = goal[LIPS[1], :2] * (size / SMALL)
        closed = 1 - _step(np.array(cv2.contourArea(mouth) / size**2), OPEN)
        facing = _step(normals[:, 2].numpy(), FACING)
        share = _step(self._from_rim, OWN_MM) * facing * np.maximum(closed, _step(self._from_mouth, LIPS_MM))
        place = goal.copy()
        place[:, :2] += share[:, None] * (points - goal)[:, :2]
        shading = [self._shading(p) for p in (face, donor.params)]
        table = np.column_stack([
            (points - place)[:, :2], _step(self._from_rim, COVER_MM) * facing, 1 - _step(self._from_rim, RIM_MM),
            self._skin, self._hair, *shading,
        ])  # fmt: skip
        bend, cover, rim, skin, hair, *lit = _drawn(place, self._head.faces, table.astype(np.float32))
        source, mask = resized(donor.crop, size), resized(donor.mask, size)
        moved = replace(wanted, light=donor.params.light)
        drawn = self._previewer(source, donor.params, moved, mask).image
        drawn = cv2.remap(drawn, *_positions(bend, size), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        under, over = (resized(p, SMALL).astype(np.float32) for p in (crop, drawn))
        for picture, light in zip((under, over), lit):
            cover = cover * (1 - _hair_in(picture, light, skin * (1 - hair), hair))
        tones = _tones(under, over, skin * cover, rim)
        cover = cv2.GaussianBlur(cover, (0, 0), EDGE * SMALL)
        soft, wide, cover = (cv2.resize(a, (size, size), interpolation=cv2.INTER_LINEAR) for a in (*tones[:2], cover))
        matched = np.exp(wide + tones[2] * (np.log(np.maximum(drawn, BLACK)) - soft))
        matched = np.where(matched > KNEE, 255 - (255 - KNEE) * np.exp((KNEE - matched) / (255 - KNEE)), matched)
        cover = cover * (1 - _filled(mouth, size))
        image = crop + cover[..., None] * (matched - crop)
        return Swapped((image + 0.5).astype(np.uint8), (cover * 255 + 0.5).astype(np.uint8))

    def into(self, image: np.ndarray, face: Face, donor: Face, max_px: int) -> tuple[np.ndarray, Face]:
        """A picture (H, W, 3) uint8 with the donor's face in the place of one of its faces, and that face.

        It is drawn at the picture's own resolution, up to `max_px` a crop.
        """
        side = round(CROP_PX / float(face.frame_to_crop[0, 0]))
        size = min(max(side, SMALL // 4), max_px)
        drawn = self(alignment.crop(image, face.frame_to_crop * (size / len(face.crop)), size), face.params, donor)
        where = None if size == side else cv2.dilate((drawn.mask > 0).astype(np.uint8) * 255, np.ones((7, 7), np.uint8))
        image = paste_crop(image, drawn.image, face.frame_to_crop, where)
        crop = alignment.crop(image, face.frame_to_crop, len(face.crop))
        return image, replace(face, crop=crop, params=self.params(face.params, donor.params))

    def _posed(self, params: FaceParams) -> tuple[torch.Tensor, torch.Tensor]:
        """(V, 3) vertices in metres and their normals, camera frame."""
        row = params.map(one_row)
        vertices = self._head.neutral(row.shape, row.expression) @ to_matrix(row.head_rotation).mT
        return vertices[0], vertex_normals(vertices, self._head.faces)[0]

    def _px(self, points: torch.Tensor, params: FaceParams) -> np.ndarray:
        """(V, 3) float32 of points in metres, px of a crop of `SMALL`."""
        return np.asarray(to_crop_px(project(points, torch.from_numpy(params.camera)), SMALL).numpy())

    def _shading(self, params: FaceParams) -> np.ndarray:
        """(V,) brightness of white skin in the light of one face."""
        shading = shade(self._posed(params)[1][None], torch.from_numpy(params.light)[None])
        return np.asarray(shading[0].mean(1).clamp_min(0.05).numpy())

    @cached_property
    def _from_rim(self) -> np.ndarray:
        """(V,) distance of each vertex from the rim of the mean face, mm."""
        return self._from(boundary_loop(self._head.faces.numpy()))

    @cached_property
    def _from_mouth(self) -> np.ndarray:
        """(V,) distance of each vertex from the opening of the mouth, mm."""
        return self._from(np.array(LIPS[1]))

    def _from(self, vertices: np.ndarray) -> np.ndarray:
        from scipy.spatial import cKDTree  # a tenth of a second

        points = 1000 * self._head.template.numpy()
        return np.asarray(cKDTree(points[vertices]).query(points)[0])

    @cached_property
    def _skin(self) -> np.ndarray:
        """(V,) 1 on skin, 0 on eyes, brows and lips."""
        return _step(self._from(np.concatenate([*EYES, *BROWS, *LIPS])), FEATURE_MM)

    @cached_property
    def _hair(self) -> np.ndarray:
        """(V,) 1 where hair may lie: on the forehead, the temples and the cheeks beside the nose."""
        up = 1000 * self._head.template.numpy()[:, 1]
        brows, lips = (up[np.concatenate(lines)].max() for lines in (BROWS, LIPS))
        beside = _step(up - lips, LIP_MM) * (1 - _step(self._from_rim, BESIDE_MM)) * self._skin
        return np.asarray(np.maximum(_step(up - brows, BROW_MM), beside))


def _step(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Smooth step from 0 at the first end to 1 at the second."""
    t = np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _drawn(points: np.ndarray, faces: torch.Tensor, table: np.ndarray) -> list[np.ndarray]:
    """Columns of a table (V, 2 + C) of vertices as pictures of SMALL px: the first two as one, 0 beside the mesh."""
    fragments = rasterize(torch.from_numpy(points)[None], faces, SMALL)
    at, shares = fragments.face[0].numpy(), fragments.barycentrics[0].numpy()
    values = (table[faces.numpy()[at]] * shares[..., None]).sum(2) * (at >= 0)[..., None]
    return [values[..., :2], *np.moveaxis(values[..., 2:], 2, 0)]


def _positions(bend: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows at which each pixel of a picture of `size` px is read, by a bend (SMALL, SMALL, 2)."""
    inside = (np.abs(bend).sum(2) > 0).astype(np.float32)
    spread = [cv2.GaussianBlur(a, (0, 0), 2.0) for a in (bend, inside)]  # beside the mesh as at its edge
    bend = np.where(inside[..., None] > 0, bend, spread[0] / np.maximum(spread[1], 1e-3)[..., None])
    bend = cv2.resize(bend * (size / SMALL), (size, size), interpolation=cv2.INTER_LINEAR)
    columns, rows = np.meshgrid(*[np.arange(size, dtype=np.float32)] * 2)
    return columns + bend[..., 0], rows + bend[..., 1]


def _hair_in(picture: np.ndarray, shading: np.ndarray, skin: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(S, S) how much a picture, `where` hair may lie, looks unlike its `skin` in the same light."""
    even = picture / np.maximum(shading, 0.05)[..., None] ** (1 / GAMMA)
    sure = skin > 0.8
    if not sure.any():
        return np.zeros_like(skin)
    tone = np.median(even[sure], axis=0)
    grey = np.maximum(even.mean(2, keepdims=True), 1)
    dark = _step(np.log(tone.mean() / grey[..., 0]), HAIR_DARK)
    colours = np.stack([even * (tone.mean() / grey), np.broadcast_to(tone, even.shape)]) / 255
    a, b = (cv2.cvtColor(c.clip(0, 1).astype(np.float32), cv2.COLOR_RGB2LAB)[..., 1:] for c in colours)
    found = np.maximum(dark, _step(np.linalg.norm(a - b, axis=2), HAIR_TINT)) * where
    return cv2.GaussianBlur(cv2.dilate(found.astype(np.float32), np.ones((HAIR_PX, HAIR_PX), np.uint8)), (0, 0), 2.0)


def _tones(
    under: np.ndarray, over: np.ndarray, weight: np.ndarray, rim: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Tones (S, S, 3) of the picture on top, in logs, what they should be, and the share of contrast to keep.

    `weight` (S, S) is 1 on skin that both show, `rim` 1 where the two must meet.
    """
    logs = [np.log(np.maximum(picture, BLACK)) for picture in (under, over)]
    weight, ratio = weight.astype(np.float32)[..., None] + np.float32(1e-4), logs[0] - logs[1]
    mean = (ratio * weight).sum((0, 1)) / weight.sum()
    wide, near = (_mean(ratio, weight, spread) for spread in (WIDE, NEAR))
    wide = mean + LOCAL * np.tanh((wide - mean) / LOCAL)
    tones = [_mean(picture, weight, WIDE) for picture in logs]
    spread = [float(np.sqrt(((p - q) ** 2 * weight).sum() / weight.sum())) for p, q in zip(logs, tones)]
    keep = float(np.clip(CONTRAST[1] * spread[0] / max(spread[1], 1e-3), CONTRAST[0], 1.0))
    return tones[1], (tones[1] + wide + rim[..., None] * (near - wide)).astype(np.float32), keep


def _mean(values: np.ndarray, weight: np.ndarray, spread: float) -> np.ndarray:
    """Weighted mean about each pixel; `spread` is of the side."""
    sums = [cv2.GaussianBlur(a, (0, 0), spread * len(values)) for a in (values * weight, weight)]
    return np.asarray(sums[0] / np.maximum(sums[1], 1e-6)[..., None])


def _filled(outline: np.ndarray, size: int) -> np.ndarray:
    """(S, S) the inside of an outline (N, 2) px, with a soft edge."""
    out = np.zeros((size, size), np.uint8)
    cv2.fillPoly(out, [np.rint(outline * 16 - 8).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    return np.asarray(cv2.GaussianBlur(out, (0, 0), EDGE * size).astype(np.float32) / 255)
