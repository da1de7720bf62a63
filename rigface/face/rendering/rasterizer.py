"""Rasterizer: triangle, barycentric coordinates and depth of each pixel.

Path: `camera.to_crop_px` -> rasterize -> `renderer.py`, `warp.py`.
Source: Pineda, "A Parallel Algorithm for Polygon Rasterization", SIGGRAPH 1988 (edge functions), on snapped
coordinates.

Rule: a pixel shows a triangle if its centre lies inside; on an edge, if the edge is a left or a top one. Corners are
snapped to 2^-16 px and edges evaluated in integers, so triangles that share an edge leave no gap and share no pixel.
Of several triangles the nearest wins (smallest z, interpolated without perspective); at equal z the first in the list.

CPU: compiled with numba at the first call (kept on disk for the next process), the images of a batch over threads.
CUDA: PyTorch3D's rasteriser. It leaves out pixel centres that lie exactly on an edge, and works in float32; elsewhere
the two agree (`test_rasterizer.py` counts).

Shape suffixes: N images, V vertices, F triangles, H rows, W columns.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rigface.face.rendering.jit import compiled

_BITS = 16  # fraction bits of a snapped coordinate, unless the image is so large that products overflow


@dataclass(frozen=True, eq=False)
class Fragments:
    """Triangle, barycentrics and depth of each pixel."""

    face: Tensor  # (N, H, W) int32 index of the triangle, -1 for none
    barycentrics: Tensor  # (N, H, W, 3) float32 shares of the triangle's corners at the pixel's centre; zero outside
    depth: Tensor  # (N, H, W) float32 z there; infinity outside


def rasterize(
    points: Tensor, faces: Tensor, size: int | tuple[int, int], *, cull: bool = False, threads: int | None = None
) -> Fragments:
    """Draw a batch of meshes that share their triangles.

    Args:
        points: (N, V, 3) float, crop px: x right, y down, the middle of the first pixel at (0.5, 0.5); a smaller z is
            nearer. Triangles with a corner that is not finite are left out.
        faces: (F, 3) integers, anticlockwise if the viewer sees their outside.
        size: rows and columns; one number for a square.
        cull: leave out triangles seen from inside.
        threads: how many images to draw at once on the CPU; torch's own number if left out.

    Returns:
        Fragments on the device of `points`, without gradients (`render.barycentrics` has them).

    Raises:
        ValueError: shapes that do not fit, or a face that names a vertex that is not there.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if points.ndim != 3 or points.shape[2] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"want points (N, V, 3) and faces (F, 3), got {tuple(points.shape)} and {tuple(faces.shape)}")
    if faces.numel() and not 0 <= int(faces.min()) <= int(faces.max()) < points.shape[1]:
        raise ValueError(
            f"faces: want vertices in 0..{points.shape[1] - 1}, got {int(faces.min())}..{int(faces.max())}"
        )
    points = points.detach()
    if points.is_cuda:
        return rasterize_pytorch3d(points, faces, (height, width), cull=cull)
    out = Fragments(
        torch.full((len(points), height, width), -1, dtype=torch.int32),
        torch.zeros(len(points), height, width, 3),
        torch.full((len(points), height, width), math.inf),
    )
    draw = compiled(_draw)
    corners, triangles = points.double().contiguous().numpy(), faces.to(torch.int32).contiguous().numpy()

    def draw_image(n: int) -> None:
        draw(corners[n], triangles, cull, out.face[n].numpy(), out.barycentrics[n].numpy(), out.depth[n].numpy())

    workers = min(threads or torch.get_num_threads(), len(points))
    if workers <= 1:
        for n in range(len(points)):
            draw_image(n)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(draw_image, range(len(points))))
    return out


def rasterize_pytorch3d(points: Tensor, faces: Tensor, size: tuple[int, int], *, cull: bool = False) -> Fragments:
    """The same by PyTorch3D, on the device of `points`; on a CPU it takes thousands of times as long."""
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    height, width = size
    half = min(height, width) / 2  # its units: the shorter side spans [-1, 1], x to the left, y up, z must be positive
    points, finite = points.detach().float(), points.isfinite().all(-1)
    points = torch.where(finite[..., None], points, torch.zeros_like(points))
    near = points[..., 2].amin() if points.numel() else points.new_zeros(())
    unit = torch.stack(
        [(width / 2 - points[..., 0]) / half, (height / 2 - points[..., 1]) / half, points[..., 2] - near + 1], -1
    )
    meshes = Meshes(list(unit), [faces.to(points.device).long()] * len(points))
    face, depth, barycentrics, _ = rasterize_meshes(
        meshes, image_size=size, blur_radius=0.0, faces_per_pixel=1, perspective_correct=False, cull_backfaces=cull
    )
    empty = face[..., 0] < 0
    return Fragments(
        torch.where(empty, -1, face[..., 0] % max(len(faces), 1)).int(),
        barycentrics[..., 0, :].masked_fill(empty[..., None], 0.0),
        (depth[..., 0] + near - 1).masked_fill(empty, math.inf),
    )


def _draw(points: Any, faces: Any, cull: bool, face: Any, barycentrics: Any, depth: Any) -> None:
    """One image into its three arrays: (H, W) -1, (H, W, 3) zero, (H, W) infinity. Compiled by numba."""
    height, width = face.shape
    count = points.shape[0]
    usable = np.empty(count, np.bool_)
    largest = float(max(height, width))
    for v in range(count):
        x, y, z = abs(points[v, 0]), abs(points[v, 1]), abs(points[v, 2])
        usable[v] = x < 2.0**29 and y < 2.0**29 and z < 1e30  # false for what is not finite
        if usable[v]:
            largest = max(largest, x, y)
    bits = _BITS
    while largest * 2.0**bits >= 2.0**30:  # coordinates below 2^30 keep an edge function below 2^63
        bits -= 1
    one = np.int64(1) << bits
    half = one >> 1  # from a pixel's corner to its centre
    xs, ys = np.empty(count, np.int64), np.empty(count, np.int64)
    for v in range(count):
        if usable[v]:
            xs[v] = np.int64(np.floor(points[v, 0] * one + 0.5))
            ys[v] = np.int64(np.floor(points[v, 1] * one + 0.5))

    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if not (usable[a] and usable[b] and usable[c]):
            continue
        area = (xs[b] - xs[a]) * (ys[c] - ys[a]) - (ys[b] - ys[a]) * (xs[c] - xs[a])
        inside_out = area > 0  # y is down: anticlockwise to the eye is negative
        if area == 0 or (cull and inside_out):
            continue
        if not inside_out:
            b, c, area = c, b, -area
        left = max(np.int64(0), (min(xs[a], xs[b], xs[c]) - half + one - 1) >> bits)
        right = min(np.int64(width - 1), (max(xs[a], xs[b], xs[c]) - half) >> bits)
        top = max(np.int64(0), (min(ys[a], ys[b], ys[c]) - half + one - 1) >> bits)
        bottom = min(np.int64(height - 1), (max(ys[a], ys[b], ys[c]) - half) >> bits)
        if left > right or top > bottom:
            continue
        # Twice the area of (edge, pixel centre), for the edge opposite each corner; positive inside.
        ax, bx, cx = xs[c] - xs[b], xs[a] - xs[c], xs[b] - xs[a]
        ay, by, cy = ys[c] - ys[b], ys[a] - ys[c], ys[b] - ys[a]
        px, py = left * one + half, top * one + half
        row_a = ax * (py - ys[b]) - ay * (px - xs[b])
        row_b = bx * (py - ys[c]) - by * (px - xs[c])
        row_c = cx * (py - ys[a]) - cy * (px - xs[a])
        # An edge that goes up is a left one, to the right a top one.
        min_a = 0 if ay < 0 or (ay == 0 and ax > 0) else 1
        min_b = 0 if by < 0 or (by == 0 and bx > 0) else 1
        min_c = 0 if cy < 0 or (cy == 0 and cx > 0) else 1
        za, zb, zc, share = points[a, 2], points[b, 2], points[c, 2], 1.0 / area
        for j in range(top, bottom + 1):
            at_a, at_b, at_c = row_a, row_b, row_c
            was_inside = False
            for i in range(left, right + 1):
                if at_a >= min_a and at_b >= min_b and at_c >= min_c:
                    was_inside = True
                    wa, wb = at_a * share, at_b * share
                    wc = 1.0 - wa - wb
                    z = np.float32(wa * za + wb * zb + wc * zc)
                    if z < depth[j, i]:
                        depth[j, i] = z
                        face[j, i] = f
                        barycentrics[j, i, 0] = wa
                        barycentrics[j, i, 1] = wb if inside_out else wc  # in the order of the list again
                        barycentrics[j, i, 2] = wc if inside_out else wb
                elif was_inside:
                    break
                at_a -= ay * one
                at_b -= by * one
                at_c -= cy * one
            row_a += ax * one
            row_b += bx * one
            row_c += cx * one
