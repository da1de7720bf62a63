"""Read the colours of faces at the places of a fitted head, and solve for skin and light.

Path: crops, fitted geometry -> OpenHeadAppearance, AppearanceFitter -> `albedo_light.py` -> albedo, light, residuals.

Shape suffixes: N faces, V vertices of a head, P places that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rigface.face.geometry.camera import project
from rigface.face.geometry.mesh import nearest
from rigface.face.head.head_model import Head
from rigface.face.head.open_head import OpenHead, has_tone
from rigface.face.head.overlay import lay_over
from rigface.face.reconstruction.albedo_light import AlbedoLightSolver, Appearance
from rigface.face.reconstruction.skin_tone import surroundings
from rigface.face.rendering.renderer import vertex_normals
from rigface.image import resized, srgb_to_linear

STEPS = 1  # subdivision of the open head: normals of 1,833 vertices are smooth enough
EVERY = 5  # light and skin are read at every fifth vertex and its mirror image: both are smooth
PLACES = 350  # about so many vertices of another head are read, and their mirror images
BATCH = 64  # faces whose colours are in memory at once
SAMPLING_PX = 256  # colours are read from crops of this size: half resolution averages noise away
EDGE = 0.99  # crop units; colours outside come from the replicated border


class OpenHeadAppearance:
    """Skin and light on the open head. Stateless between calls."""

    def __init__(self, head: OpenHead, device: str = "cpu") -> None:
        weights, faces = head.subdivision(STEPS)
        points = weights @ head.template
        places = _symmetric(points, np.arange(0, len(points), EVERY))
        self._weights = torch.from_numpy(weights).to(device)
        self._faces = torch.from_numpy(faces.astype(np.int64)).to(device)
        self._places = torch.from_numpy(places).to(device)
        # Vertices of fewer steps come first, so one numbering serves the fine albedo and the coarse surface.
        basis, skin = head.albedo_axes[:, places], head.skin[places]
        parts = (torch.from_numpy(part).to(device) for part in (head.albedo_mean[places], basis, skin))
        self._solve = AlbedoLightSolver(*parts, plain=torch.from_numpy(head.plain_skin[places]).to(device))

    def fit(
        self, crops: Sequence[np.ndarray], points: Tensor, rotation: Tensor, camera: Tensor, tracks: Tensor
    ) -> Appearance:
        """Skin and light of N crops from fitted control points (N, 468, 3), rotation (N, 3, 3) and camera (N, 3)."""

        def surface(part: slice) -> tuple[Tensor, Tensor]:
            fine = self._weights @ points[part].transpose(0, 1).flatten(1)  # one product for the whole batch
            fine = torch.unflatten(fine, 1, (-1, 3)).transpose(0, 1).contiguous()
            normals = vertex_normals(fine, self._faces)[:, self._places]
            return fine[:, self._places] @ rotation[part].mT, normals @ rotation[part].mT

        colours, normals, inside, around = _read(crops, camera, surface, linear=True)
        return self._solve(colours, normals, inside, tracks, around)


class AppearanceFitter:
    """Skin and light on any head with 51 inner landmarks and an albedo. Stateless between calls.

    `vertices` (U,) int64 are all that a call needs to be posed; of these, `faces` (F, 3) are the triangles, `places`
    (P,) those that are read, and `skin` (P,) bool is true on skin; `linear` is false if albedo times shading is a
    colour as a screen shows it.
    """

    def __init__(self, head: Head, device: str = "cpu") -> None:
        overlay, template = lay_over(head), head.template.numpy()
        face = np.flatnonzero(overlay.is_face)
        places = _symmetric(template, face[:: max(1, len(face) // PLACES)])
        places = places[overlay.is_face[places]]
        around = head.faces[torch.isin(head.faces, torch.from_numpy(places)).any(1)]
        self.vertices, faces = torch.unique(around, return_inverse=True)
        self._count, self.faces = len(template), faces.to(device)
        self.places = torch.searchsorted(self.vertices, torch.from_numpy(places)).to(device)
        self.vertices = self.vertices.to(device)
        self._mean, self._basis = (part.to(device) for part in _albedo_at(head, torch.from_numpy(places)))
        self.skin = torch.from_numpy(OpenHead.load().skin[overlay.nearest[places]]).to(device)
        self.linear = head.spec.colours == "linear"
        plain = OpenHead.load().plain_skin[overlay.nearest[places]] if has_tone(head.spec) else None
        self._solve = AlbedoLightSolver(
            self._mean, self._basis, self.skin, display=not self.linear,
            plain=None if plain is None else torch.from_numpy(plain).to(device),
        )  # fmt: skip

    def albedo(self, coefficients: Tensor) -> Tensor:
        """(N, P, 3) albedo at the places."""
        return self._mean + torch.einsum("na,apc->npc", coefficients, self._basis[: coefficients.shape[1]])

    def brightness(self, coefficients: Tensor) -> Tensor:
        """(N,) mean luminance of the skins, in units of `SKIN_LUMINANCE`."""
        return self._solve.brightness(coefficients)

    def fit(self, crops: Sequence[np.ndarray], vertices: Tensor, camera: Tensor, tracks: Tensor) -> Appearance:
        """Skin and light of N crops.

        Args:
            vertices: (N, V, 3) posed, or (N, U, 3) those of `vertices` alone; metres, camera frame.
            camera: (N, 3) as in `FaceParams`.
            tracks: (N,) int64; faces of one number share their albedo.
        """
        colours, normals, inside, around = self._colours(crops, vertices, camera)
        return self._solve(colours, normals, inside, tracks, around)

    def explain(
        self, crops: Sequence[np.ndarray], vertices: Tensor, camera: Tensor, albedo: Tensor, light: Tensor
    ) -> Appearance:
        """The misfit of a given albedo (N, A) and light (N, 9, 3)."""
        colours, normals, inside, _ = self._colours(crops, vertices, camera)
        return self._solve.explain(colours, normals, inside, albedo, light)

    def _colours(self, crops: Sequence[np.ndarray], vertices: Tensor, camera: Tensor) -> tuple[Tensor, ...]:
        used = vertices[:, self.vertices] if vertices.shape[1] == self._count else vertices

        def surface(part: slice) -> tuple[Tensor, Tensor]:
            return used[part][:, self.places], vertex_normals(used[part], self.faces)[:, self.places]

        return _read(crops, camera, surface, linear=self.linear)


def _read(
    crops: Sequence[np.ndarray], camera: Tensor, surface: Callable[[slice], tuple[Tensor, Tensor]], *, linear: bool
) -> tuple[Tensor, ...]:
    """Colours (N, P, 3), normals (N, P, 3), (N, P) bool inside the crop, and `surroundings` (N, 4); `surface` gives
    posed places and their normals of some faces.
    """
    colours, normals, inside, around = [], [], [], [np.zeros((0, 4), np.float32)]
    for start in range(0, max(len(crops), 1), BATCH):
        part = slice(start, start + BATCH)
        places, normal = surface(part)
        projected = project(places, camera[part])[..., :2]
        pictures = [resized(picture, SAMPLING_PX) for picture in crops[part]]  # decoded once
        colour, within = sample_colours(pictures, projected.cpu().numpy(), linear=linear)
        around += [surroundings(picture)[None] for picture in pictures]
        normals.append(normal)
        colours.append(torch.from_numpy(colour).to(camera.device))
        inside.append(torch.from_numpy(within).to(camera.device))
    outside = torch.from_numpy(np.concatenate(around)).to(camera.device)
    return torch.cat(colours), torch.cat(normals), torch.cat(inside), outside


def sample_colours(
    crops: Sequence[np.ndarray], places: np.ndarray, *, linear: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Read colours at points of N crops (S, S, 3) uint8 sRGB, bilinearly at half resolution.

    Places (N, P, 2) are crop units, y up. Returns (N, P, 3) float32 in [0, 1], linear or as they are, and (N, P) bool:
    the point is inside the crop.
    """
    inside = (np.abs(places) < EDGE).all(-1)
    pixel = ((places * (1, -1) + 1) * (SAMPLING_PX / 2) - 0.5).astype(np.float32)
    out = np.empty((*places.shape[:2], 3), np.float32)
    for i, picture in enumerate(crops):
        small = resized(picture, SAMPLING_PX).astype(np.float32)
        out[i] = cv2.remap(
            small, pixel[i, None, :, 0], pixel[i, None, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[0]
    return srgb_to_linear(out / 255) if linear else out / 255, inside


def _symmetric(points: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Sorted indices of the chosen points, and of those nearest to their mirror images."""
    mirror = nearest(points, points[chosen] * [-1, 1, 1])[1]
    return np.union1d(chosen, mirror)


def _albedo_at(head: Head, places: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (P, 3) and basis (A, P, 3) of the albedo at some vertices; a texture is read as the renderer reads it."""
    if head.albedo_mean is not None and head.albedo_basis is not None:
        return head.albedo_mean[places], head.albedo_basis[places].permute(2, 0, 1).contiguous()
    if head.texture_mean is None or head.texture_basis is None or head.uv is None or head.uv_faces is None:
        raise ValueError(f"the {head.spec.name} head has no albedo; load it with `load_head`, which gives it one")
    corner = torch.zeros(len(head.template), dtype=torch.int64)
    corner[head.faces.flatten()] = head.uv_faces.flatten()  # on a seam, any of its two places
    grid = head.uv[corner[places]] * 2 - 1
    grid = (grid * grid.new_tensor([1, -1]))[None, None]
    texels = torch.cat([head.texture_mean[..., None], head.texture_basis], -1)  # (T, T, 3, 1 + A)
    read = F.grid_sample(texels.flatten(2).permute(2, 0, 1)[None], grid, align_corners=False)[0, :, 0]
    values = torch.unflatten(read, 0, (3, -1)).permute(1, 2, 0)  # (1 + A, P, 3)
    return values[0], values[1:].contiguous()
