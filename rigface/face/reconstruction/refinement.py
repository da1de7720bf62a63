"""Improve reconstructed faces by steps on their colours and landmarks, after any reconstructor.

Path: Fit of a reconstructor -> Refined -> Fit. `rigface extract --refine N`.
Source: analysis by synthesis (Blanz and Vetter, SIGGRAPH 1999) at points of the surface in place of pixels, with the
robust error of `albedo_light.py`; Adam (Kingma and Ba, ICLR 2015) on the deviation from the start, in units of its
spread, which is also the prior.

The start counts as a result, too, and each track keeps the best of its steps: nothing gets worse by this measure.

Shape suffixes: N faces, T tracks, P places whose colour is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rigface.face.geometry.camera import project
from rigface.face.head.head_model import Embedding, Head, part_of
from rigface.face.reconstruction.albedo_light import CORRELATED, GRAZING, NOISE, RESIDUAL_SCALE
from rigface.face.reconstruction.appearance import AppearanceFitter
from rigface.face.reconstruction.flame_fit import LANDMARK_STD, OUTER_EYES, correspondence
from rigface.face.reconstruction.landmark_fit import to_crop_unit
from rigface.face.reconstruction.protocol import Fit, Reconstructor
from rigface.face.rendering.lighting import mean_shading, shade
from rigface.face.rendering.renderer import vertex_normals
from rigface.image import resized, srgb_to_linear
from rigface.types import FaceParams

PICTURE_PX = 128  # colours are read from crops of this size, where an edge reaches far enough to pull
RATE = 0.05  # of the first step, in units of the spread; it falls to 0
BATCH = 32  # faces whose gradients are in memory at once
LIGHT_SPREAD = 0.15  # of the light's own strength
SPREAD = {  # how far a coefficient may be from its start, one standard deviation
    "shape": 0.5,
    "expression": 0.5,
    "head_rotation": 0.05,
    "jaw_rotation": 0.05,
    "camera": 0.03,  # of the scale, as a share; of the shift, in 0.2 m
    "albedo": 0.5,
    "light": 1.0,
    "eyelids": 0.2,
}
NAMED_SPREAD = 0.15  # of an expression axis of the open head
SHARED = ("shape", "albedo")  # one per track


class Refined:
    """A reconstructor whose faces are improved by some steps.

    Args:
        head: the reconstructor's head: the open head or FLAME, with an albedo.
        steps: how many; each takes about as long as the fit.
    """

    def __init__(self, inner: Reconstructor, head: Head, steps: int, device: str = "cpu") -> None:
        self.head_spec, self.version, self.inner = inner.head_spec, inner.version, inner
        self._steps, self._device = steps, device
        self._appearance = AppearanceFitter(head, device)
        points, weights, places = correspondence(head)
        self._points, self._weights = torch.from_numpy(points).to(device), weights.to(device)
        self._outer = [int(np.flatnonzero(points == corner)[0]) for corner in OUTER_EYES]
        skin, corners = self._appearance.vertices.cpu(), torch.unique(places.vertices)
        kept = torch.cat([skin, corners[~torch.isin(corners, skin)]])
        row = torch.zeros(len(head.template), dtype=torch.int64)
        row[kept] = torch.arange(len(kept))
        self._places = Embedding(row[places.vertices].to(device), places.weights.to(device))
        self._surface = part_of(head, kept).to(device)
        self._skin_count = len(skin)
        self._spread = SPREAD | ({"expression": NAMED_SPREAD} if head.spec.expression_names else {})

    def __call__(
        self, crops: Sequence[np.ndarray], landmarks: np.ndarray, blendshapes: np.ndarray | None, tracks: np.ndarray
    ) -> Fit:
        """See `Reconstructor`; ValueError if the landmarks are not MediaPipe's."""
        if landmarks.shape[1] <= int(self._points.max()):
            raise ValueError(f"steps on landmarks need MediaPipe's 468+, got {landmarks.shape[1]}; leave `refine` at 0")
        start = self.inner(crops, landmarks, blendshapes, tracks)
        if not len(crops):
            return start
        members = torch.unique(torch.from_numpy(np.array(tracks, np.int64)), return_inverse=True)[1].to(self._device)
        params = start.params.map(lambda a: torch.from_numpy(np.ascontiguousarray(a)).to(self._device))
        observed = torch.from_numpy(np.array(landmarks, np.float32)).to(self._device)[:, self._points]
        observed, pictures = to_crop_unit(observed), self._pictures(crops)
        found = self._search(params, members, observed, pictures)
        with torch.no_grad():
            vertices = self._surface.of(found)
            gap = (self._landmarks(vertices, found) - observed[..., :2]).square().sum(-1).mean(1).sqrt()
            places = self._places.points(vertices)
            eyes = (places[:, self._outer[0]] - places[:, self._outer[1]]).norm(dim=-1) * found.camera[:, 0]
            skin = vertices[:, : self._skin_count]
            look = self._appearance.explain(crops, skin, found.camera, found.albedo, found.light)
        return Fit(found.map(_numpy), _numpy(gap / eyes), _numpy(look.residual), _numpy(look.occlusion))

    def _search(self, params: FaceParams, members: Tensor, observed: Tensor, pictures: Tensor) -> FaceParams:
        """The best of the steps for each track, beginning with the start itself."""
        count, tracks = len(members), int(members.max()) + 1
        exposure = mean_shading(params.light).mean(-1).clamp_min(1e-4)
        level = exposure * self._appearance.brightness(params.albedo)
        names = [name for name in self._spread if getattr(params, name) is not None]
        away = {
            name: getattr(params, name).new_zeros(
                tracks if name in SHARED else count, *getattr(params, name).shape[1:], requires_grad=True
            )
            for name in names
        }
        owner = {name: torch.arange(tracks, device=members.device) if name in SHARED else members for name in names}
        optimiser = torch.optim.Adam(away.values(), RATE)
        best = observed.new_full((tracks,), torch.inf)
        kept = {name: value.detach().clone() for name, value in away.items()}
        for step in range(self._steps + 1):
            optimiser.zero_grad()
            total = torch.zeros_like(best)
            for part in _parts(count):
                moved = self._moved(params, away, members, exposure, part)
                loss = self._loss(moved, level[part], observed[part], pictures[part])
                loss.sum().backward()  # type: ignore[no-untyped-call]
                total = total.index_add(0, members[part], loss.detach())
            for name, value in away.items():
                prior = value.square().flatten(1).sum(1) / 2
                prior.sum().backward()
                total = total.index_add(0, owner[name], prior.detach())
            better = total < best
            best = torch.where(better, total, best)
            for name, value in away.items():
                mine = better[owner[name]].view(-1, *[1] * (value.ndim - 1))
                kept[name] = torch.where(mine, value.detach(), kept[name])
            if step < self._steps:
                optimiser.param_groups[0]["lr"] = RATE * (1 - step / self._steps)
                optimiser.step()
        return self._moved(params, kept, members, exposure, slice(None))

    def _moved(
        self, params: FaceParams, away: dict[str, Tensor], members: Tensor, exposure: Tensor, part: slice
    ) -> FaceParams:
        """The coefficients of some faces, so far away from their start."""
        start = params.map(lambda a: a[part])
        step = {
            name: self._spread[name] * (value[members[part]] if name in SHARED else value[part])
            for name, value in away.items()
        }
        moved = {name: getattr(start, name) + value for name, value in step.items()}
        moved["light"] = start.light + LIGHT_SPREAD * exposure[part, None, None] * step["light"]
        scale, shift = step["camera"][:, :1].exp() * start.camera[:, :1], 0.2 * step["camera"][:, 1:]
        moved["camera"] = torch.cat([scale, start.camera[:, 1:] + shift], 1)
        if "eyelids" in moved:
            moved["eyelids"] = moved["eyelids"].clamp(0, 1)
        return replace(start, **moved)

    def _loss(self, params: FaceParams, level: Tensor, observed: Tensor, pictures: Tensor) -> Tensor:
        """(N,) half the squared error of landmarks and colours, in standard deviations; `level` (N,) is the skin's
        brightness in its light.
        """
        vertices, look = self._surface.of(params), self._appearance
        metres = (self._landmarks(vertices, params) - observed[..., :2]) / params.camera[:, :1, None].detach()
        landmark = (metres.square().sum(-1) * self._weights).sum(1) / (LANDMARK_STD**2 * CORRELATED)
        skin = vertices[:, : self._skin_count]
        normals = vertex_normals(skin, look.faces)[:, look.places]
        grid = project(skin[:, look.places], params.camera)[..., :2] * skin.new_tensor([1, -1])
        seen = F.grid_sample(pictures, grid[:, None], align_corners=False)[:, :, 0].mT
        model = look.albedo(params.albedo) * shade(normals, params.light)
        weight = ((normals[..., 2] > GRAZING) & (grid.abs() < 1).all(-1) & look.skin) * normals[..., 2]
        error = (seen - model).abs().mean(-1) / level[:, None]
        robust = RESIDUAL_SCALE**2 * torch.log1p((error / RESIDUAL_SCALE).square())
        colour = (robust * weight.detach()).sum(1) / (NOISE**2 * CORRELATED)
        out: Tensor = (landmark + colour) / 2
        return out

    def _landmarks(self, vertices: Tensor, params: FaceParams) -> Tensor:
        projected: Tensor = project(self._places.points(vertices), params.camera)
        return projected[..., :2]

    def _pictures(self, crops: Sequence[np.ndarray]) -> Tensor:
        """(N, 3, PICTURE_PX, PICTURE_PX) in the colours of the head's albedo."""
        small = np.stack([resized(crop, PICTURE_PX) for crop in crops]).astype(np.float32) / 255
        small = srgb_to_linear(small) if self._appearance.linear else small
        return torch.from_numpy(np.ascontiguousarray(small)).permute(0, 3, 1, 2).to(self._device)


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + BATCH) for start in range(0, count, BATCH))


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
