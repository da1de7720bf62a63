"""Renderer of heads: alpha, albedo, normals, shading, and their product.

Path: FaceParams -> render -> the `render` condition, the page of `inspect`, and photometric residuals.
Source: the Lambertian model of DECA (Feng et al., SIGGRAPH 2021, eq. 3-5): colour = albedo * irradiance(normal).

Colours are linear, not clamped, and not encoded for a screen. Normals are in the camera frame: x to the viewer's right,
y up, z to the viewer. Undrawn pixels are zero in every picture except `shading`, which is the light on a normal of
zero, as in the reference.

Gradients: if an input requires them, the barycentrics are computed again from the vertices, so they flow to the
shape, pose, camera, light and albedo through everything but which triangle a pixel shows. Silhouettes do not move.

Shape suffixes: N faces, V vertices, F triangles, P drawn pixels of the whole batch, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rigface.face.geometry import camera as cameras
from rigface.face.head.head_model import Head
from rigface.face.rendering.lighting import shade
from rigface.face.rendering.rasterizer import Fragments, rasterize
from rigface.types import CROP_PX, FaceParams

_CLAY = 0.5  # the albedo of a head that comes without one


@dataclass(frozen=True, eq=False)
class Render:
    """Pictures of a batch of heads, float32."""

    image: Tensor  # (N, 3, H, W) albedo times shading, linear colour; zero outside
    alpha: Tensor  # (N, 1, H, W) 1 on a triangle
    albedo_image: Tensor  # (N, 3, H, W) zero outside
    normal_image: Tensor  # (N, 3, H, W) interpolated vertex normals, a little shorter than 1; zero outside
    shading: Tensor  # (N, 3, H, W) irradiance
    points: Tensor  # (N, V, 3) the vertices in crop px of this picture
    fragments: Fragments  # which triangle each pixel shows


class Pixels:
    """The drawn pixels of a batch: for each the three vertices it lies between, and their shares."""

    def __init__(self, points: Tensor, faces: Tensor, fragments: Fragments) -> None:
        """`points` (N, V, 3) crop px as given to `rasterize`, with gradients if the shares are to have them."""
        self.shape = _, height, width = fragments.face.shape
        self.at = (fragments.face.flatten() >= 0).nonzero()[:, 0]  # (P,) indices into the flattened batch
        self.image = self.at.div(height * width, rounding_mode="floor")
        self.face = fragments.face.flatten()[self.at].long()
        self.corners = faces[self.face]
        self.vertices = (self.corners + self.image[:, None] * points.shape[1]).unbind(1)  # in the flattened batch
        self.shares = fragments.barycentrics.flatten(0, 2).index_select(0, self.at).to(points.dtype)
        if points.requires_grad and torch.is_grad_enabled():
            self.shares = self._shares(points)

    def _shares(self, points: Tensor) -> Tensor:
        a, b, c = (points[..., :2].flatten(0, 1).index_select(0, k) for k in self.vertices)
        _, height, width = self.shape
        inside = self.at - self.image * (height * width)
        at = torch.stack([inside % width, inside.div(width, rounding_mode="floor")], -1).to(a) + 0.5
        whole = _cross(b - a, c - a)
        flat = whole == 0  # too thin for this precision, though not for the rasteriser's; keep its shares
        whole = torch.where(flat, torch.ones_like(whole), whole)
        first, second = _cross(b - at, c - at) / whole, _cross(c - at, a - at) / whole
        return torch.where(flat[:, None], self.shares, torch.stack([first, second, 1 - first - second], -1))

    def of_vertices(self, values: Tensor) -> Tensor:
        """(P, C) of vertex values (N, V, C)."""
        return _weighted(values.flatten(0, 1), self.vertices, self.shares)

    def of_corners(self, values: Tensor, faces: Tensor) -> Tensor:
        """(P, C) of values (T, C) that the triangles reach by corners (F, 3) of their own, as texture coordinates."""
        return _weighted(values, faces[self.face].unbind(1), self.shares)

    def lit(self, normals: Tensor, light: Tensor) -> Tensor:
        """(P, 3) irradiance on normals (P, 3), each in the light (N, 9, 3) of its own image."""
        counts = torch.bincount(self.image, minlength=self.shape[0]).tolist()
        by_image = zip(torch.split(normals, counts), light)
        return torch.cat([shade(own[None], its_light[None])[0] for own, its_light in by_image])

    def picture(self, values: Tensor, background: Tensor | None = None) -> Tensor:
        """(N, C, H, W) of pixel values (P, C); elsewhere the background (N, C), or zero."""
        n, height, width = self.shape
        out = values.new_zeros(n, height * width, values.shape[-1])
        if isinstance(background, Tensor):
            out = out + background[:, None]
        out = out.flatten(0, 1).index_copy(0, self.at, values)
        return torch.unflatten(out, 0, (n, height, width)).permute(0, 3, 1, 2)


def render(
    head: Head,
    params: FaceParams,
    *,
    size: int = CROP_PX,
    albedo: Tensor | None = None,
    shift: Tensor | None = None,
    cull: bool = False,
) -> Render:
    """Draw heads.

    Args:
        params: torch tensors with one batch axis, on the head's device.
        size: rows and columns of the square picture; the crop fills it.
        albedo: (N, 3, h, w) textures for a head with texture coordinates, or (N, V, 3) a colour per vertex; left out,
            the head's own albedo or texture basis with `params.albedo`, or grey if it has none.
        shift: (N, 3) metres, added to the posed vertices.
        cull: leave out triangles seen from inside.

    Raises:
        ValueError: the albedo fits neither form, or the head has no texture coordinates.
    """
    if albedo is None:
        albedo = head.albedo(params.albedo)
        if albedo is None:
            albedo = torch.full_like(head.template, _CLAY).expand(len(params.camera), -1, -1)
    vertices = head.of(params) if shift is None else head.of(params) + shift[:, None]
    return render_vertices(head, vertices, params.camera, params.light, albedo, size=size, cull=cull)


def render_vertices(
    head: Head,
    vertices: Tensor,
    camera: Tensor,
    light: Tensor,
    albedo: Tensor,
    *,
    size: int = CROP_PX,
    cull: bool = False,
) -> Render:
    """Render posed vertices (N, V, 3) with camera (N, 3), light (N, 9, 3) and albedo; see `render`."""
    points = cameras.to_crop_px(cameras.project(vertices, camera), size)
    fragments = rasterize(points, head.faces, size, cull=cull)
    pixels = Pixels(points, head.faces, fragments)
    if albedo.ndim == 4:
        colours = _sample(head, pixels, albedo)
    elif albedo.shape == vertices.shape:
        colours = pixels.of_vertices(albedo)
    else:
        raise ValueError(f"albedo: want (N, 3, h, w) or {tuple(vertices.shape)}, got {tuple(albedo.shape)}")
    normals = pixels.of_vertices(vertex_normals(vertices, head.faces))
    irradiance = pixels.lit(normals, light)
    around = shade(torch.zeros_like(light[:, :1]), light)[:, 0]
    return Render(
        image=pixels.picture(colours * irradiance),
        alpha=(fragments.face >= 0)[:, None].to(vertices.dtype),
        albedo_image=pixels.picture(colours),
        normal_image=pixels.picture(normals),
        shading=pixels.picture(irradiance, around),
        points=points,
        fragments=fragments,
    )


def vertex_normals(vertices: Tensor, faces: Tensor, *, by_area: bool = True) -> Tensor:
    """Unit normals (N, V, 3) of a closed surface, each the sum of its triangles' normals, weighted by their areas or
    (as for the Basel model) evenly.

    Vertices (N, V, 3) are in any right-handed frame, faces (F, 3) int64 anticlockwise seen from outside. Normals point
    out; zero for a vertex without triangles.
    """
    rows = vertices.transpose(0, 1).contiguous()  # vertices first: whole rows are read and added, four times as fast
    a, b, c = (rows.index_select(0, faces[:, corner]) for corner in range(3))
    across = torch.linalg.cross(b - a, c - a)
    if not by_area:
        across = F.normalize(across, dim=-1, eps=torch.finfo(across.dtype).tiny)
    total = torch.zeros_like(rows)
    for corner in range(3):
        total = total.index_add(0, faces[:, corner], across)
    return F.normalize(total.transpose(0, 1).contiguous(), dim=-1, eps=torch.finfo(total.dtype).tiny)


def _sample(head: Head, pixels: Pixels, texture: Tensor) -> Tensor:
    """(P, C) of textures (N, C, h, w), bilinear; outside of the texture is black."""
    if head.uv is None or head.uv_faces is None:
        raise ValueError(f"the {head.spec.name} head has no texture coordinates; give an albedo per vertex (N, V, 3)")
    uv = pixels.of_corners(head.uv, head.uv_faces)
    grid = pixels.picture(uv * uv.new_tensor([2, -2]) + uv.new_tensor([-1, 1])).permute(0, 2, 3, 1)
    sampled = F.grid_sample(texture, grid, align_corners=False).permute(0, 2, 3, 1)
    return sampled.flatten(0, 2).index_select(0, pixels.at)


def _weighted(values: Tensor, at: Sequence[Tensor], shares: Tensor) -> Tensor:
    a, b, c = (values.index_select(0, k) * share[:, None] for k, share in zip(at, shares.unbind(1)))
    return a + b + c


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
