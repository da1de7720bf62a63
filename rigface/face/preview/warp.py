"""The instant preview: move the photograph itself with the fitted head, and light it anew. No network.

Path: source crop, its coefficients, the coefficients wanted -> preview -> what a slider shows, and the `texture` render
condition of the small model.
Source: image-based relighting by ratio images (Riklin-Raviv & Shashua 2001; Wen et al. 2003) and texture warping by a
fitted mesh (Blanz & Vetter 1999), drawn backwards: each pixel looks up its position in the source.

* Inside the face a pixel reads the source where the same piece of skin was; skin the source did not show is read from
  the mirrored place on the other cheek. Eyes and mouth are openings of their own (`eye_mouth_openings.py`).
* Around the face rings carry hair, ears and neck along (`surround_mesh.py`). Where the cheek of a turned head hides the
  rim of the face, they begin at the outline of the cheek.
* Where a mask says who is the person, only the person moves, over a background that stays and is filled in where it
  was hidden (`inpainting.py`). Without a mask the surroundings are bent along.
* Light is multiplied by the ratio of the two shadings (`pixel_kernel.py`). A black-and-white or toned photograph is lit
  without colour.

With the source's own coefficients the result is the source, to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch

from rigface.face.controls.local_blendshapes import skull_motion_matrix, soft_tissue
from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.mesh import boundary_loop, nearest
from rigface.face.geometry.rotation import to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.face.preview import pixel_kernel
from rigface.face.preview.eye_mouth_openings import Opening, close_opening, find_openings
from rigface.face.preview.inpainting import edge_colours, hole_of, inpaint_background
from rigface.face.preview.surround_mesh import RINGS, SurroundMesh, frontality, ring_triangles, surround_mesh
from rigface.face.reconstruction.quality import is_grey
from rigface.face.rendering.lighting import shade
from rigface.face.rendering.rasterizer import rasterize
from rigface.face.rendering.renderer import vertex_normals
from rigface.types import FaceParams

STEPS = 1
GAMMA = 2.2
RATIO = (0.12, 4.0)  # darkest and brightest change of light that 8-bit pixels survive
DARKEST = 0.15  # shading below this share of the source's mean is noise, not light
TINT = 0.35  # log of the largest change of colour from place to place; a fitted light is no surer than that
# Cosine to the viewer at which a piece of skin counts as not seen, and as seen. Nearer to the outline the fit is off by
# some pixels, and the background would show on the cheek. Hair, ears and neck are placed no better than that anyway.
SEEN, HAIR_SEEN = (0.3, 0.6), (0.05, 0.35)
DEPTH_PX, BEHIND_PX = 128, 5  # side of the depth image; of a square, what lies in front of its middle hides it
BEHIND = (0.2, 0.35)  # distances behind that, in those of the outer eyes, between which a piece of skin is hidden
HIDDEN = (0.1, -0.2)  # cosines to the viewer of the rim between which the cheek comes to hide it
BESIDE, MAX_PUSH = 0.05, 0.4  # radians within which an outline is looked for; share of the radius it may be off
BRIGHTENED = 2.0  # by at most so much is mirrored skin made as bright as its new side: a light is no surer than that
STEEP = 2.0  # of the change from hair to mirrored hair: half of each would show twice what the two do not share
MAX_STRETCH = 8.0  # times by which an edge that is stretched with its surroundings is made sharp again
SOFT_MASK = 0.003  # of the side: masks are blurred by this much
OUTER_EYES = (33, 263)
LIPS = (12, 15)  # middle of the upper and of the lower lip
CHEEKS = (50, 280)
IVORY = np.array([0.82, 0.79, 0.73])  # of the skin's brightest colour, with some of its tint
THROAT, TONGUE = 0.2, 0.55  # as dark as these shares of the lips


@dataclass(frozen=True, eq=False)
class Preview:
    """A preview of one edit."""

    image: np.ndarray  # (S, S, 3) uint8
    mask: np.ndarray | None  # (S, S) uint8, the person after the edit; None if none was given
    invented: np.ndarray  # (S, S) float32 in [0, 1]: the share that the source did not show


class Previewer:
    """Draws previews with the open head and its surround. Stateless between calls."""

    def __init__(self, model: OpenHead | None = None) -> None:
        self._model = model or OpenHead.load()
        self._head = self._model.head(STEPS)
        self._mesh = _mesh(self._model)

    def __call__(
        self, crop: np.ndarray, source: FaceParams, wanted: FaceParams, mask: np.ndarray | None = None,
        back: np.ndarray | None = None,
    ) -> Preview:  # fmt: skip
        """Preview one edit of a crop (S, S, 3) uint8, from its coefficients to those wanted; one face, numpy.

        The mask (S, S) uint8 is 255 on the person in the crop; `back` (S, S, 3) uint8 is the crop without the person,
        if that is known.
        """
        size, mesh, grey = len(crop), self._mesh, is_grey(crop)
        both = _pair(source, wanted)
        if grey:
            both = replace(both, light=both.light.mean(-1, keepdim=True).expand_as(both.light))
        unposed, skull = self._unposed(both)
        vertices = unposed @ to_matrix(both.head_rotation).mT
        points = to_crop_px(project(vertices, both.camera), size).numpy()
        eyes = float(np.linalg.norm(points[0, OUTER_EYES[0]] - points[0, OUTER_EYES[1]]))
        normals = vertex_normals(vertices, self._head.faces)
        frontal = frontality(both.head_rotation).numpy()
        for p, facing, share in zip(points, normals[..., 2].numpy(), frontal):
            p[mesh.rim, :2] = _unhidden(p[:, :2], facing, mesh.rim, share)
        straight_rim = self._head.neutral(both.shape[:1], torch.zeros_like(both.expression[:1]))[0, mesh.rim]
        around = surround_mesh(straight_rim, points[0, mesh.rim], both, size, skull)
        in_view = _in_view(points / size, self._head.faces, eyes / size)
        shown = _shown(normals[..., 2].numpy(), mesh.mirror, SEEN, in_view)
        lit, twin_lit = _ratios(shade(torch.cat([normals, around.normals], 1), both.light), mesh.mirror)
        drawn, table = mesh.laid_out(points, around, shown, lit, twin_lit, eyes, mask is not None)
        fragments = rasterize(torch.from_numpy(drawn)[None], mesh.triangles, size)
        soft, back, hole, edge = _layers(crop, mask, back, drawn, table)
        image, invented = np.empty_like(crop), np.zeros((size, size), np.float32)
        hard = np.zeros((0, 0), np.uint8) if mask is None else np.ascontiguousarray(mask)
        new_mask = np.empty_like(hard)
        pixel_kernel.paint_pixels(
            fragments.face[0].numpy(), fragments.barycentrics[0].numpy(), mesh.triangles.numpy(), table,
            _inside_of_mouth(crop, points[0], grey),
            cv2.copyMakeBorder(cv2.cvtColor(crop, cv2.COLOR_RGB2RGBA), 1, 2, 1, 2, cv2.BORDER_REPLICATE),
            hard, soft, back, hole, edge, image, new_mask, invented, threads=torch.get_num_threads(),
        )  # fmt: skip
        return Preview(image, None if mask is None else new_mask, invented)

    def _unposed(self, both: FaceParams) -> tuple[torch.Tensor, torch.Tensor]:
        """(2, V, 3) before and after, unturned, and (6,) how the change of expression moves the skull.

        Expressions do not move the rim of forehead and temples but with the skull.
        """
        out, skull = self._head.neutral(both.shape, both.expression), torch.zeros(6)
        change = both.expression[1] - both.expression[0]
        if change.any():
            moves = self._head.expression_basis @ change
            skull = self._mesh.to_skull @ moves.flatten()
            still = out[1] - moves
            rigid = still @ to_matrix(skull[None, 3:])[0].mT + skull[:3]
            out[1] += (1 - self._mesh.soft_tissue[:, None]) * (rigid - out[1])
        return out, skull


@dataclass(frozen=True, eq=False)
class _Mesh:
    """Face, rings and openings as one mesh: V + 3 R + strips vertices, in that order."""

    triangles: torch.Tensor  # (F, 3) int64
    rim: np.ndarray  # (R,) face vertices around the face, in order
    mirror: np.ndarray  # (V,) face vertex on the other side
    across: np.ndarray  # (R,) place in the rim on the other side
    openings: list[Opening]
    soft_tissue: torch.Tensor  # (V,) how much an expression may move a vertex, in [0, 1]
    to_skull: torch.Tensor  # (6, 3 V) the rigid motion of the skull that fits moves of the vertices

    def laid_out(
        self, points: np.ndarray, around: SurroundMesh, shown: np.ndarray, lit: np.ndarray, twin_lit: np.ndarray,
        eyes: float, masked: bool,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Positions (N, 3) to draw vertices at, crop px, and their attributes (N, pixel_kernel.WIDTH)."""
        count, ring = len(self.mirror), len(self.rim)
        before, after = points
        for opening in self.openings:
            before, after = close_opening(opening, before), close_opening(opening, after)
        strips = [opening.strip(before, after, eyes) for opening in self.openings]
        rims = np.concatenate([opening.rims for opening in self.openings])
        n = count + len(around.before) + len(rims)
        table = np.zeros((n, pixel_kernel.WIDTH), np.float32)
        mirrored = [k * ring + self.across for k in range(len(around.before) // ring)]
        table[:, pixel_kernel.HERE : pixel_kernel.HERE + 2] = np.concatenate(
            [before[:, :2], around.before[:, :2], *[s[0] for s in strips]]
        )
        table[:, pixel_kernel.TWIN : pixel_kernel.TWIN + 2] = np.concatenate(
            [before[self.mirror, :2], around.before[np.concatenate(mirrored), :2], *_twins(self.openings, strips)]
        )
        table[:, pixel_kernel.STRETCH] = table[:, pixel_kernel.STEEP] = 1
        table[count : count + len(around.before), pixel_kernel.STEEP] = STEEP
        table[self.rim, pixel_kernel.STRETCH], table[count : count + len(around.before), pixel_kernel.STRETCH] = (
            _stretch(*((p[self.rim, :2], a[:, :2]) for p, a in ((before, around.before), (after, around.after))))
        )
        # The surround may be mirrored only if a mask keeps the background out of it.
        sides = np.ones((len(mirrored), ring))
        if masked:
            facing = around.normals[:, :ring, 2].numpy()
            sides[:-1] = np.maximum(_shown(facing, self.across, HAIR_SEEN), around.neck)
        table[:, pixel_kernel.SEEN] = np.concatenate([shown, sides.ravel(), shown[rims]])
        table[count + len(around.before) :, pixel_kernel.DARK : pixel_kernel.TEETH + 1] = np.concatenate(
            [s[2] for s in strips]
        )
        for column, ratio in ((pixel_kernel.LIT, lit), (pixel_kernel.TWIN_LIT, twin_lit)):
            rings = ratio[count:]
            # Hair hangs less in the light of the face, a wrong mask shows less; without one, light would show on the
            # wall.
            faded = [np.maximum(f, around.neck) for f in (0.85, 0.6, 0.5)]
            fade = np.concatenate(faded) if masked else np.repeat([0.4, 0, 0], ring)
            rings = 1 + (rings - 1) * fade[:, None]
            table[:, column : column + 3] = np.concatenate([ratio[:count], rings, ratio[rims]])
        drawn = np.concatenate([after, around.after, *[s[1] for s in strips]]).astype(np.float32)
        return drawn, table


def _stretch(
    before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(R,) and (K R,): how many times longer the ways from ring to ring have become, at the rim and at the rings.

    Each is given by its rim (R, 2) and rings (K R, 2).
    """

    def ways(rim: np.ndarray, rings: np.ndarray) -> np.ndarray:
        places = np.concatenate([rim, rings]).reshape(-1, *rim.shape)
        return np.asarray(np.linalg.norm(np.diff(places, axis=0), axis=2))

    times = np.clip(ways(*after) / np.maximum(ways(*before), 1e-3), 1, MAX_STRETCH)
    return times[0], times.ravel()


def _unhidden(points: np.ndarray, facing: np.ndarray, rim: np.ndarray, share: float = 1.0) -> np.ndarray:
    """(R, 2) the rim of a face (V, 2), and where the cheek hides it, a `share` of the way to the cheek's outline.

    Hair and ears begin there in the picture. `facing` (V,) is the cosine to the viewer.
    """
    hidden = share * np.clip((HIDDEN[0] - facing[rim]) / (HIDDEN[0] - HIDDEN[1]), 0, 1)
    some = rim[hidden > 0]
    offsets = points - points[rim].mean(0)
    reach, turn = np.linalg.norm(offsets, axis=1), np.arctan2(offsets[:, 1], offsets[:, 0])
    apart = np.abs((turn[some][:, None] - turn + np.pi) % (2 * np.pi) - np.pi)
    outline = np.where(apart < BESIDE, reach, 0).max(1)
    further = np.clip(outline / reach[some] - 1, 0, MAX_PUSH) * hidden[hidden > 0]
    out: np.ndarray = points[rim].copy()
    out[hidden > 0] += offsets[some] * further[:, None]
    return out


def _twins(openings: list[Opening], strips: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Mirror positions of each strip's vertices: one eye in the other, the mouth in itself."""
    right, left, mouth = (s[0] for s in strips)
    columns = len(openings[2].upper)
    return [left, right, mouth.reshape(-1, columns, 2)[:, ::-1].reshape(-1, 2)]


@lru_cache(maxsize=2)
def _mesh(model: OpenHead) -> _Mesh:
    weights, faces = model.subdivision(STEPS)
    points = weights @ model.template
    rim = boundary_loop(faces)
    count, around = len(points), len(rim)
    openings = find_openings(model.control_faces, faces, len(model.template), STEPS)
    rings = [rim, *(count + k * around + np.arange(around) for k in range(len(RINGS) + 1))]
    parts = [np.delete(faces, np.concatenate([s.faces for s in openings]), axis=0)]
    parts += [piece for inner, outer in pairwise(rings) for piece in ring_triangles(inner, outer)]
    first = count + around * (len(RINGS) + 1)
    for opening in openings:
        parts.append(opening.triangles(first))
        first += opening.rows * len(opening.upper)
    mirror = nearest(points, points * [-1, 1, 1])[1]
    place = {int(vertex): k for k, vertex in enumerate(rim)}
    across = np.array([place[int(mirror[vertex])] for vertex in rim])
    return _Mesh(
        torch.from_numpy(np.concatenate(parts).astype(np.int64)), rim, mirror, across, openings,
        *(torch.from_numpy(a.astype(np.float32)) for a in (soft_tissue(points, rim), skull_motion_matrix(points, rim))),
    )  # fmt: skip


def _pair(source: FaceParams, wanted: FaceParams) -> FaceParams:
    """Both as one torch batch of two."""

    def both(name: str) -> Any:
        a, b = getattr(source, name), getattr(wanted, name)
        return None if a is None or b is None else torch.from_numpy(np.stack([a, b]).astype(np.float32))

    return FaceParams(**{name: both(name) for name in FaceParams.__dataclass_fields__})


def _ratios(shading: torch.Tensor, mirror: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By what colours are multiplied in power-law space, at each vertex: read from itself, and from its twin.

    Brightness follows the two lights (2, V + K R, 3), the face first. The colour of the change follows them in the
    mean, and from place to place only so far: estimated lights are worth little in the colours of what they hardly
    light, and a green neck is worse than none.
    """
    floor = DARKEST * shading[0].mean(0).clamp_min(1e-4)  # one for both: if neither is above it, nothing changes
    before, after = torch.maximum(shading, floor)
    twin = before.clone()
    face = before[: len(mirror)]
    twin[: len(mirror)] = torch.maximum(face[torch.from_numpy(mirror)], face / BRIGHTENED)
    return _tempered(after / before, before), _tempered(after / twin, before)


def _tempered(ratio: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    grey = ratio.mean(1, keepdim=True)
    tint = (ratio / grey).log()
    mean = (tint * weight).sum(0) / weight.sum(0)
    tint = mean + TINT * ((tint - mean) / TINT).tanh()
    return (grey * tint.exp()).clamp(*RATIO).pow(1 / GAMMA).numpy()


def _shown(
    facing: np.ndarray, mirror: np.ndarray, seen: tuple[float, float], in_view: np.ndarray | None = None
) -> np.ndarray:
    """(V,) how well the source shows what the edit wants to see of each vertex, against its mirror image (V,).

    `facing` (2, V) is the cosine to the viewer, before and after; `in_view` (2, V) is 0 behind other skin.
    """
    before, after = facing
    clear = np.clip((before - seen[0]) / (seen[1] - seen[0]), 0, 1)
    no_worse = np.clip(1 - (after - before - 0.05) / 0.25, 0, 1)  # as grazing as it was: keep what the source has
    if in_view is not None:
        clear = clear * in_view[0]
        no_worse = no_worse * np.clip(1 - (in_view[1] - in_view[0] - 0.05) / 0.25, 0, 1)
    as_good = np.clip(1 - (clear[mirror] - clear - 0.05) / 0.4, 0, 1)  # the twin must be clearly better
    return np.asarray(np.maximum(np.maximum(clear, no_worse), as_good))


def _in_view(points: np.ndarray, faces: torch.Tensor, eyes: float) -> np.ndarray:
    """(N, V) in [0, 1]: 0 for vertices (N, V, 3) behind the nose or another part of the face, or at its outline.

    Points and the distance of the eyes are in shares of the crop's side.
    """
    places = points * DEPTH_PX
    depth = rasterize(torch.from_numpy(places), faces, DEPTH_PX).depth.numpy()
    at = places[..., :2].astype(int).clip(0, DEPTH_PX - 1)
    nearest = np.stack([cv2.erode(d, np.ones((BEHIND_PX,) * 2))[xy[:, 1], xy[:, 0]] for d, xy in zip(depth, at)])
    behind = np.where(np.isfinite(nearest), places[..., 2] - nearest, 0) / (eyes * DEPTH_PX)
    return np.asarray(np.clip(1 - (behind - BEHIND[0]) / (BEHIND[1] - BEHIND[0]), 0, 1))


def _layers(
    crop: np.ndarray, mask: np.ndarray | None, back: np.ndarray | None, drawn: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The mask with soft edges, the background behind the person, the mask of its filled pixels, and `edge_colours`;
    or empty arrays.
    """
    nothing = [np.zeros(shape, np.uint8) for shape in ((0, 0), (0, 0, 3), (0, 0), (0, 0, 6))]
    if mask is None:
        return tuple(nothing)
    size = len(crop)
    width = 2 * round(SOFT_MASK * size) + 1
    soft = cv2.blur(mask, (width, width))
    moved = np.abs(drawn[:, :2] - table[:, pixel_kernel.HERE : pixel_kernel.HERE + 2]).max()
    if moved * 512 / size < pixel_kernel.STILL_PX:
        return soft, *nothing[1:]
    if back is None:
        return soft, *inpaint_background(crop, mask)
    return soft, back, hole_of(mask), edge_colours(crop, mask)


def _inside_of_mouth(crop: np.ndarray, points: np.ndarray, grey: bool) -> np.ndarray:
    """(3, 3) float32: the dark of this mouth and its tongue, from the lips' colour; its teeth, from the cheeks'."""
    lips = np.mean([_around(crop, points[k]) for k in LIPS], axis=0)
    skin = np.mean([_around(crop, points[k]) for k in CHEEKS], axis=0)
    teeth = np.minimum(0.5 * skin + 0.5 * skin.max(), 255) * (IVORY.mean() if grey else IVORY)
    return np.stack([THROAT * lips, TONGUE * lips, teeth]).astype(np.float32)


def _around(crop: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(3,) mean colour of the few pixels around a place."""
    size = len(crop)
    reach = max(size // 128, 1)
    x, y = np.clip(point[:2].astype(int), reach, size - reach - 1)
    return np.asarray(crop[y - reach : y + reach + 1, x - reach : x + reach + 1].mean((0, 1)))
