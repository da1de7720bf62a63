"""The instant preview: move the photograph itself with the fitted head, and light it anew. No network.

Path: source crop, its coefficients, the coefficients wanted -> preview -> what a slider shows, and the `texture` render
condition of the small model.
Source: image-based relighting by ratio images (Riklin-Raviv & Shashua 2001; Wen et al. 2003) and texture warping by a
fitted mesh (Blanz & Vetter 1999), drawn backwards: each pixel asks where in the source it came from.

* Inside the face a pixel reads the source where the same piece of skin was; skin the source did not show is read from
  the mirrored place on the other cheek.
* Around the face a skirt of two rings carries hair, ears and neck along: the inner ring turns rigidly with the head, a
  little behind the face; the outer ring stays, so that the background stays.
* Light is multiplied by the ratio of the two shadings, in a power-law colour space where that is one product.
* A mouth that opens wider than the source's shows a dark inside instead of stretched lips.

With the source's own coefficients the result is the source, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from rigface.face.camera import project, to_crop_px
from rigface.face.lighting import shade
from rigface.face.open_head import OpenHead
from rigface.face.raster import rasterize
from rigface.face.render import vertex_normals
from rigface.face.rotation import to_matrix
from rigface.types import FaceParams

STEPS = 1
GAMMA = 2.2
RATIO = (0.12, 6.0)  # darkest and brightest change of light that 8-bit pixels survive
DARKEST = 0.06  # shading below this share of the mean is noise, not light
RIGID_RING = 1.32  # the inner ring, in face radii from the middle of the face
STILL_RING = 2.15  # the outer one
BEHIND = 0.055  # metres from the rim of the face back to the inner ring
SEEN = (0.05, 0.35)  # cosine to the viewer at which a piece of skin counts as not seen, and as seen
LIP_LINE = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)


@dataclass(frozen=True, eq=False)
class Preview:
    """A preview of one edit.

    Args:
        image: (S, S, 3) uint8.
        mask: (S, S) uint8, the person after the edit; None if none was given.
        invented: (S, S) float32 in [0, 1]: how little the source showed of what is here.
    """

    image: np.ndarray
    mask: np.ndarray | None
    invented: np.ndarray


class Previewer:
    """The open head and its skirt, ready to be moved. Stateless between calls."""

    def __init__(self, model: OpenHead | None = None) -> None:
        self._model = model or OpenHead.load()
        self._head = self._model.head(STEPS)
        self._mesh = _mesh(self._model)

    def __call__(
        self, crop: np.ndarray, source: FaceParams, wanted: FaceParams, mask: np.ndarray | None = None
    ) -> Preview:
        """Preview one edit.

        Args:
            crop: (S, S, 3) uint8, the source's crop at any size.
            source: its coefficients; one face, numpy.
            wanted: the coefficients wanted.
            mask: (S, S) uint8, the person in the crop; light then stays off the background.
        """
        size = len(crop)
        mesh = self._mesh
        both = _pair(source, wanted)
        vertices = self._head.of(both)
        normals = vertex_normals(vertices, self._head.faces)
        own_light, twin_light = _ratios(shade(normals, both.light), mesh.mirror)
        points = to_crop_px(project(vertices, both.camera), size).numpy()
        rings = to_crop_px(project(self._rim(both), both.camera), size).numpy()
        pushed = _outside(rings[0], points[0, mesh.rim]) - rings[0]
        here = _joined(points[0], rings[0] + pushed, rings[0], size)
        there = _joined(points[1], rings[1] + pushed, rings[0], size)
        shown = _shown(normals[..., 2].numpy(), mesh.mirror)
        still = np.ones(len(mesh.rim))
        seen = np.concatenate([shown, shown[mesh.rim], still]).astype(np.float32)
        twin = here[mesh.twin, :2].astype(np.float32)
        lit, twin_lit = (np.concatenate([r, r[mesh.rim], np.ones((len(mesh.rim), 3))]) for r in (own_light, twin_light))
        fragments = rasterize(torch.from_numpy(there)[None], mesh.triangles, size)
        opened = _opened(points)
        image, invented = np.empty_like(crop), np.zeros((size, size), np.float32)
        new_mask = None if mask is None else np.empty_like(mask)
        _compiled()(
            fragments.face[0].numpy(), fragments.barycentrics[0].numpy(), mesh.triangles.numpy(), mesh.inside_mouth,
            here[:, :2].astype(np.float32), twin, seen, lit.astype(np.float32), twin_lit.astype(np.float32),
            np.float32(opened),
            np.ascontiguousarray(crop), _one(mask), image, _one(new_mask), invented,
        )  # fmt: skip
        return Preview(image, new_mask, invented)

    def _rim(self, both: FaceParams) -> torch.Tensor:
        """(2, R, 3) the rigid ring in the camera frame, before and after: the neutral face's rim, wider and behind."""
        still = replace(both, expression=torch.zeros_like(both.expression), shape=both.shape[:1].expand_as(both.shape))
        straight = replace(still, head_rotation=torch.zeros_like(both.head_rotation))
        rim = self._head.of(straight)[:, self._mesh.rim]
        middle = rim.mean(1, keepdim=True)
        outwards = (rim - middle) * torch.tensor([1.0, 1.0, 0.0])
        below = (-outwards[..., 1:2] / outwards[..., 1:2].abs().amax()).clamp(0, 1)  # the neck turns less than the hair
        ring = middle + outwards * (RIGID_RING - 0.12 * below) + (rim - middle) * torch.tensor([0, 0, 1.0])
        ring[..., 2] -= BEHIND
        turned = ring @ to_matrix(both.head_rotation).mT
        return turned + 0.6 * below * (turned[:1] - turned)


@dataclass(frozen=True, eq=False)
class _Mesh:
    """The face, the rigid ring and the still ring as one mesh; vertices in that order."""

    triangles: torch.Tensor  # (F, 3) int64
    rim: np.ndarray  # (R,) face vertices around the face, in order
    mirror: np.ndarray  # (V,) face vertex on the other side
    twin: np.ndarray  # (V + 2 R,) the same for the whole mesh
    inside_mouth: np.ndarray  # (F,) bool


@lru_cache(maxsize=2)
def _mesh(model: OpenHead) -> _Mesh:
    from scipy.spatial import cKDTree

    weights, faces = model.subdivision(STEPS)
    points = weights @ model.template
    rim = _boundary(faces)
    count, around = len(points), len(rim)
    inner, outer = count + np.arange(around), count + around + np.arange(around)
    skirt = [strip for a, b in ((rim, inner), (inner, outer)) for strip in _strip(a, b)]
    mouth = np.zeros(len(model.template), bool)
    mouth[list(LIP_LINE)] = True
    coarse = mouth[model.control_faces].all(1)  # all three corners on the line of the lips: the hole between them
    inside = np.repeat(coarse, 4**STEPS)
    triangles = np.concatenate([faces, *skirt])
    mirror = cKDTree(points).query(points * [-1, 1, 1])[1]
    place = {int(vertex): k for k, vertex in enumerate(rim)}
    across = count + np.array([place[int(mirror[vertex])] for vertex in rim])
    return _Mesh(
        torch.from_numpy(triangles.astype(np.int64)),
        rim,
        mirror,
        np.concatenate([mirror, across, across + around]),
        np.concatenate([inside, np.zeros(len(triangles) - len(faces), bool)]),
    )


def _boundary(faces: np.ndarray) -> np.ndarray:
    """Vertices of the mesh's one boundary, in order, the mesh on the left."""
    directed = {(int(a), int(b)) for t in faces for a, b in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))}
    after = {a: b for a, b in directed if (b, a) not in directed}
    loop = [next(iter(sorted(after)))]
    while (following := after[loop[-1]]) != loop[0]:
        loop.append(following)
    return np.array(loop)


def _strip(inner: np.ndarray, outer: np.ndarray) -> list[np.ndarray]:
    """Triangles between two rings of the same length, outside up."""
    a, b = inner, np.roll(inner, -1)
    c, d = outer, np.roll(outer, -1)
    return [np.stack([b, a, c], 1), np.stack([b, c, d], 1)]


def _pair(source: FaceParams, wanted: FaceParams) -> FaceParams:
    """Both as one torch batch of two."""

    def both(name: str) -> Any:
        a, b = getattr(source, name), getattr(wanted, name)
        return None if a is None or b is None else torch.from_numpy(np.stack([a, b]).astype(np.float32))

    return FaceParams(**{name: both(name) for name in FaceParams.__dataclass_fields__})


def _ratios(shading: torch.Tensor, mirror: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By what colours are multiplied in power-law space, at each vertex: read from itself, and from its twin.

    Args:
        shading: (2, V, 3) before and after.

    Returns:
        (V, 3) and (V, 3).
    """
    floor = DARKEST * shading.mean(1, keepdim=True).clamp_min(1e-4)
    before, after = torch.maximum(shading, floor)
    own, twin = ((after / b).clamp(*RATIO).pow(1 / GAMMA).numpy() for b in (before, before[torch.from_numpy(mirror)]))
    return own, twin


def _shown(facing: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """(V,) how well the source shows what the edit wants to see of each vertex, against its mirror image.

    Args:
        facing: (2, V) cosine to the viewer, before and after. mirror: (V,).
    """
    before, after = facing
    clear = np.clip((before - SEEN[0]) / (SEEN[1] - SEEN[0]), 0, 1)
    no_worse = np.clip(1 - (after - before - 0.05) / 0.25, 0, 1)  # as grazing as it was: keep what the source has
    return np.maximum(np.maximum(clear, no_worse), clear > clear[mirror])


def _outside(ring: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """The ring as it lies in the source, but never in front of the face: on a turned head its far side does."""
    middle = rim[:, :2].mean(0)
    out, edge = ring[:, :2] - middle, rim[:, :2] - middle
    reach, least = np.linalg.norm(out, axis=1), 1.12 * np.linalg.norm(edge, axis=1)
    direction = np.where(
        (reach < least)[:, None], edge / np.linalg.norm(edge, axis=1, keepdims=True), out / reach[:, None]
    )
    return np.concatenate([middle + direction * np.maximum(reach, least)[:, None], ring[:, 2:]], axis=1)


def _joined(face: np.ndarray, ring: np.ndarray, ring_before: np.ndarray, size: int) -> np.ndarray:
    """(V + 2 R, 3) crop px: the face, the rigid ring, and the ring that stays, which is far behind."""
    middle = ring_before.mean(0)
    still = middle + (ring_before - middle) * (STILL_RING / RIGID_RING)
    still[:, 2] = ring_before[:, 2].max() + size
    return np.concatenate([face, ring, still])


def _opened(points: np.ndarray) -> float:
    """How dark the mouth's inside has to be: 0 as in the source, 1 wide open where it was shut. Lips that only part a
    little (3 % of the outer-eye distance) still show lips and teeth."""
    gap = np.linalg.norm(points[:, 13] - points[:, 14], axis=-1)
    eyes = np.linalg.norm(points[:, 33] - points[:, 263], axis=-1)
    before, after = gap / np.maximum(eyes, 1e-3)
    return float(np.clip((after - before - 0.03) / max(after, 0.1), 0, 1))


def _one(mask: np.ndarray | None) -> np.ndarray:
    return np.zeros((0, 0), np.uint8) if mask is None else np.ascontiguousarray(mask)


@cache
def _compiled() -> Callable[..., None]:
    from numba import njit

    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=True)(_paint)
    except RuntimeError:  # neither beside this file nor in the user's cache folder may be written
        return njit(nogil=True, error_model="numpy", fastmath=True)(_paint)


def _paint(
    face: Any, shares: Any, triangles: Any, inside_mouth: Any, here: Any, twin: Any, seen: Any, lit: Any, twin_lit: Any, opened: Any,
    crop: Any, mask: Any, image: Any, new_mask: Any, invented: Any,
) -> None:  # fmt: skip
    """Fill the preview pixel by pixel. Compiled by numba; arrays as `Previewer.__call__` makes them."""
    size = face.shape[0]
    masked = mask.shape[0] > 0

    def corner(at: Any) -> Any:  # the pixel before, and the share of the one after; edges are repeated
        at = min(max(at - 0.5, 0.0), size - 1.0)
        first = min(int(at), size - 2)
        return first, at - first

    def colour(x: Any, y: Any) -> Any:
        a, p = corner(x)
        b, q = corner(y)
        w00, w01, w10, w11 = (1 - p) * (1 - q), p * (1 - q), (1 - p) * q, p * q
        n, e, s, t = crop[b, a], crop[b, a + 1], crop[b + 1, a], crop[b + 1, a + 1]
        return (
            w00 * n[0] + w01 * e[0] + w10 * s[0] + w11 * t[0],
            w00 * n[1] + w01 * e[1] + w10 * s[1] + w11 * t[1],
            w00 * n[2] + w01 * e[2] + w10 * s[2] + w11 * t[2],
        )

    for j in range(size):
        for i in range(size):
            f = face[j, i]
            if f < 0:
                image[j, i] = crop[j, i]
                if masked:
                    new_mask[j, i] = mask[j, i]
                continue
            x = y = u = v = shown = 0.0
            red = green = blue = red2 = green2 = blue2 = 0.0
            for k in range(3):
                w, vertex = shares[j, i, k], triangles[f, k]
                x += w * here[vertex, 0]
                y += w * here[vertex, 1]
                u += w * twin[vertex, 0]
                v += w * twin[vertex, 1]
                shown += w * seen[vertex]
                red += w * lit[vertex, 0]
                green += w * lit[vertex, 1]
                blue += w * lit[vertex, 2]
                red2 += w * twin_lit[vertex, 0]
                green2 += w * twin_lit[vertex, 1]
                blue2 += w * twin_lit[vertex, 2]
            invented[j, i] = 1 - shown
            if masked:
                a, p = corner(x)
                b, q = corner(y)
                upper = mask[b, a] + p * (np.float64(mask[b, a + 1]) - mask[b, a])
                lower = mask[b + 1, a] + p * (np.float64(mask[b + 1, a + 1]) - mask[b + 1, a])
                person = upper + q * (lower - upper)
                new_mask[j, i] = np.uint8(person + 0.5)
                share = person / 255.0
                red, green, blue = 1 + share * (red - 1), 1 + share * (green - 1), 1 + share * (blue - 1)
                red2, green2, blue2 = 1 + share * (red2 - 1), 1 + share * (green2 - 1), 1 + share * (blue2 - 1)
            own = colour(x, y)
            own = (own[0] * red, own[1] * green, own[2] * blue)
            if shown < 0.999:
                other = colour(u, v)
                own = (
                    shown * own[0] + (1 - shown) * other[0] * red2,
                    shown * own[1] + (1 - shown) * other[1] * green2,
                    shown * own[2] + (1 - shown) * other[2] * blue2,
                )
            if inside_mouth[f] and opened > 0:
                bright = opened * (0.299 * own[0] + 0.587 * own[1] + 0.114 * own[2])
                keep = 1 - opened
                own = (keep * own[0] + 0.42 * bright, keep * own[1] + 0.26 * bright, keep * own[2] + 0.25 * bright)
                invented[j, i] = max(invented[j, i], opened)
            for c in range(3):
                image[j, i, c] = np.uint8(min(255.0, own[c] + 0.5))
