"""Pixel loop of the preview: source position, light and background of each pixel.

Path: `warp.py` lays out vertices and their attributes -> paint_pixels -> image, mask, and the invented share.

The photograph is read by cubic convolution (Keys 1981, a = -0.5). A preview is then as sharp as one that is drawn
bilinearly at twice the size and reduced, in a quarter of the time; bilinear reading alone keeps three quarters of the
energy of fine detail.

Colours are handled as they are stored, in sRGB: a ratio of lights is raised to 1/2.2 beforehand, so it stays one
product. Brightened colours bend below white instead of being cut off there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rigface.face.rendering.jit import compiled

# Columns of the vertex table.
HERE, TWIN, SEEN, DARK, TONGUE, TEETH, LIT, TWIN_LIT, STRETCH, STEEP, WIDTH = 0, 2, 4, 5, 6, 7, 8, 11, 14, 15, 16

CROP, IMAGE = 5, 11  # of the arrays of `_paint`

KNEE = 0.8  # of white, from which brightened colours bend
SETTLED_PX = 0.35  # of 512: a pixel that would move by less keeps its place, and stays sharp
JUMP_PX = 4.0  # of 512: neighbours that come from places so far apart are of two pieces
STILL_PX, MOVED_PX = 3.0, 14.0  # of 512: moves between which the background beside the person stops moving along


def paint_pixels(*arrays: np.ndarray, threads: int = 1) -> None:
    """`_paint` as machine code in bands of rows, one a thread, then `_soften`; the same arrays."""
    size = len(arrays[0])
    place = np.empty((size, size, 2), np.float32)
    ends = np.linspace(0, size, min(max(threads, 1), size) + 1).astype(np.int64)
    paint = compiled(_paint, fastmath=True)

    def band(top: int, bottom: int) -> None:
        paint(*arrays, place, np.empty(16, np.float32), top, bottom)

    if len(ends) == 2:
        band(0, size)
    else:
        with ThreadPoolExecutor(len(ends) - 1) as pool:
            list(pool.map(band, ends, ends[1:]))
    compiled(_soften)(arrays[0], place, arrays[CROP], arrays[IMAGE])


def _paint(
    face: Any, shares: Any, triangles: Any, table: Any, inside: Any, crop: Any, mask: Any, soft: Any, back: Any,
    hole: Any, edge: Any, image: Any, new_mask: Any, invented: Any, place: Any, sums: Any,
    top: Any, bottom: Any,
) -> None:  # fmt: skip
    """Fill the rows of the preview from `top` up to `bottom`. Compiled by numba.

    Args:
        face, shares: (S, S) int32 and (S, S, 3): what `rasterize` found; triangles (F, 3).
        table: (V, WIDTH) float32, the columns named above. Places in px; lights as factors.
        inside: (3, 3) the dark of a mouth, and the colours of its tongue and teeth.
        crop: (S + 3, S + 3, 4) uint8, its border repeated once before and twice after; the fourth value is not used.
        mask: (S, S) uint8, and soft: the same with soft edges; or (0, 0). back, hole: from `inpaint_background`, or
            (0, 0, 3) and (0, 0).
        edge: (h, h, 6) uint8 from `edge_colours`; or (0, 0, 6).
        image, new_mask, invented: to be filled; and place (S, S, 2) float32, the source position of each pixel.
        sums: (16,) float32 to work in; with a length known to the compiler the loop over it would not be vectorised.
    """
    size = face.shape[0]
    rows = crop.reshape(size + 3, 4 * (size + 3))

    def keys(p: Any) -> Any:  # shares of the four pixels about a place, p after the second
        q = 1 - p
        second, third = 1 - p * p * (5 - 3 * p) / 2, 1 - q * q * (5 - 3 * q) / 2
        return np.float32(-p * q * q / 2), np.float32(second), np.float32(third), np.float32(-q * p * p / 2)

    def corner(x: Any, y: Any) -> Any:  # the pixel before, and the shares of those after; edges are repeated
        x, y = min(max(x - 0.5, 0.0), size - 1.0), min(max(y - 0.5, 0.0), size - 1.0)
        a, b = min(int(x), size - 2), min(int(y), size - 2)
        return a, b, x - a, y - b

    def grey(of: Any, a: Any, b: Any, p: Any, q: Any) -> Any:
        upper = of[b, a] + p * (np.float64(of[b, a + 1]) - of[b, a])
        lower = of[b + 1, a] + p * (np.float64(of[b + 1, a + 1]) - of[b + 1, a])
        return upper + q * (lower - upper)

    def colours(a: Any, b: Any, p: Any, q: Any) -> Any:  # red, green and blue, by Keys' kernel
        if p == 0 and q == 0:
            at = crop[b + 1, a + 1]
            return np.float32(at[0]), np.float32(at[1]), np.float32(at[2])
        x0, x1, x2, x3 = keys(p)
        y0, y1, y2, y3 = keys(q)
        n = 4 * a
        row0, row1 = rows[b, n : n + 16], rows[b + 1, n : n + 16]
        row2, row3 = rows[b + 2, n : n + 16], rows[b + 3, n : n + 16]
        for k in range(len(sums)):  # four pixels of four values at once, by vector instructions
            upper = y0 * np.float32(row0[k]) + y1 * np.float32(row1[k])
            sums[k] = upper + y2 * np.float32(row2[k]) + y3 * np.float32(row3[k])
        return (
            x0 * sums[0] + x1 * sums[4] + x2 * sums[8] + x3 * sums[12],
            x0 * sums[1] + x1 * sums[5] + x2 * sums[9] + x3 * sums[13],
            x0 * sums[2] + x1 * sums[6] + x2 * sums[10] + x3 * sums[14],
        )

    def bare(colour: Any, c: Any, level: Any, share: Any, x: Any, y: Any) -> Any:  # without the background
        last = edge.shape[0] - 1
        zoom = edge.shape[0] / np.float64(size)
        u, v = min(max((x + 0.5) * zoom - 0.5, 0.0), last), min(max((y + 0.5) * zoom - 0.5, 0.0), last)
        i, j = min(int(u), last - 1), min(int(v), last - 1)
        p, q = u - i, v - j
        w00, w01, w10, w11 = (1 - p) * (1 - q), p * (1 - q), (1 - p) * q, p * q
        ours = w00 * edge[j, i, c] + w01 * edge[j, i + 1, c] + w10 * edge[j + 1, i, c] + w11 * edge[j + 1, i + 1, c]
        c += 3
        theirs = w00 * edge[j, i, c] + w01 * edge[j, i + 1, c] + w10 * edge[j + 1, i, c] + w11 * edge[j + 1, i + 1, c]
        return colour + share * (ours + level * (colour - theirs - level * (ours - theirs)) - colour)

    def steep(level: Any, by: Any) -> Any:
        return min(max(0.5 + by * (level - 0.5), 0.0), 1.0)

    masked, layered = mask.shape[0] > 0, back.shape[0] > 0
    unit = size / 512.0

    for j in range(top, bottom):
        for i in range(size):
            f = face[j, i]
            if f < 0:
                for c in range(3):
                    image[j, i, c] = crop[j + 1, i + 1, c]
                if masked:
                    new_mask[j, i] = mask[j, i]
                place[j, i, 0], place[j, i, 1] = i + 0.5, j + 0.5
                continue
            w0, w1, w2 = np.float64(shares[j, i, 0]), np.float64(shares[j, i, 1]), np.float64(shares[j, i, 2])
            at0, at1, at2 = table[triangles[f, 0]], table[triangles[f, 1]], table[triangles[f, 2]]
            dx = w0 * at0[HERE] + w1 * at1[HERE] + w2 * at2[HERE] - i - 0.5
            dy = w0 * at0[HERE + 1] + w1 * at1[HERE + 1] + w2 * at2[HERE + 1] - j - 0.5
            moved = (dx * dx + dy * dy) / (unit * unit)  # squared: most pixels need no root
            share = 1 - SETTLED_PX**2 / moved if moved > SETTLED_PX**2 else 0.0
            x, y = i + 0.5 + share * dx, j + 0.5 + share * dy
            place[j, i, 0], place[j, i, 1] = x, y
            visible = w0 * at0[SEEN] + w1 * at1[SEEN] + w2 * at2[SEEN]
            mirrored = visible < 0.999
            if mirrored:
                visible = steep(visible, w0 * at0[STEEP] + w1 * at1[STEEP] + w2 * at2[STEEP])
            new = 1 - visible
            a, b, p, q = corner(x, y)
            ta, tb, tp, tq = a, b, p, q
            if mirrored:
                ta, tb, tp, tq = corner(
                    w0 * at0[TWIN] + w1 * at1[TWIN] + w2 * at2[TWIN],
                    w0 * at0[TWIN + 1] + w1 * at1[TWIN + 1] + w2 * at2[TWIN + 1],
                )
            person = 1.0
            if masked:
                person, level = grey(soft, a, b, p, q) / 255.0, grey(mask, a, b, p, q) / 255.0
                own_share = twin_share = person
                if mirrored:
                    twin_share = grey(soft, ta, tb, tp, tq) / 255.0
                    person = visible * person + (1 - visible) * twin_share
                    level = visible * level + (1 - visible) * grey(mask, ta, tb, tp, tq) / 255.0
                if 0 < person < 1:
                    stretch = w0 * at0[STRETCH] + w1 * at1[STRETCH] + w2 * at2[STRETCH]
                    person, level = steep(person, stretch), steep(level, stretch)
                new_mask[j, i] = np.uint8(255 * level + 0.5)
            still = filled = clean = 0.0  # shares of the background as it is, as it is filled in, and of it taken away
            if layered and person < 0.999:
                near = hole[j, i] / 255.0  # beside the person; elsewhere the background does not move at all
                if person == 0 and near == 0:
                    for c in range(3):
                        image[j, i, c] = crop[j + 1, i + 1, c]
                    invented[j, i] = 0
                    continue
                far = min(max((np.sqrt(moved) - STILL_PX) / (MOVED_PX - STILL_PX), 0.0), 1.0)
                still, filled = (1 - person) * (1 - near), (1 - person) * near * far
                clean = far * person / max(1 - still - filled, 1e-6)
                new = max(new, filled)
            own = colours(a, b, p, q)
            twin = colours(ta, tb, tp, tq) if mirrored else own
            dark = w0 * at0[DARK] + w1 * at1[DARK] + w2 * at2[DARK]
            if dark > 0:
                new = max(new, dark)
                tongue = w0 * at0[TONGUE] + w1 * at1[TONGUE] + w2 * at2[TONGUE]
                teeth = w0 * at0[TEETH] + w1 * at1[TEETH] + w2 * at2[TEETH]
            for c in range(3):
                lit = w0 * at0[LIT + c] + w1 * at1[LIT + c] + w2 * at2[LIT + c]
                lit = 1 + person * (lit - 1)
                colour = np.float64(own[c])
                if clean > 0:
                    colour = bare(colour, c, own_share, clean, a + p, b + q)
                value = lit * colour
                if mirrored:
                    twin_lit = w0 * at0[TWIN_LIT + c] + w1 * at1[TWIN_LIT + c] + w2 * at2[TWIN_LIT + c]
                    twin_lit = 1 + person * (twin_lit - 1)
                    colour = np.float64(twin[c])
                    if clean > 0:
                        colour = bare(colour, c, twin_share, clean, ta + tp, tb + tq)
                    value = visible * value + (1 - visible) * twin_lit * colour
                if dark > 0:
                    depth = inside[0, c] + tongue * tongue * (inside[1, c] - inside[0, c])
                    depth += teeth * (inside[2, c] - depth)
                    value += dark * (lit * depth - value)
                if lit > 1 and value > KNEE * 255:
                    over = value / 255.0 - KNEE
                    bent = 255 * (KNEE + (1 - KNEE) * over / (over + 1 - KNEE))
                    value += min(1.0, 4 * (lit - 1)) * (bent - value)
                if still + filled > 0:
                    value += still * (crop[j + 1, i + 1, c] - value) + filled * (back[j, i, c] - value)
                image[j, i, c] = np.uint8(min(255.0, max(0.0, value) + 0.5))
            invented[j, i] = new


def _soften(face: Any, place: Any, crop: Any, image: Any) -> None:
    """Blur the preview by half a pixel where one piece of the mesh hides another. Compiled by numba.

    The picture jumps there from pixel to pixel, in steps. A pixel that still is the crop's stays so.
    """
    size = face.shape[0]
    sharp = image.copy()
    for j in range(1, size - 1):
        for i in range(1, size - 1):
            own = crop[j + 1, i + 1]
            changed = image[j, i, 0] != own[0] or image[j, i, 1] != own[1] or image[j, i, 2] != own[2]
            if face[j, i] < 0 or not changed:
                continue
            jump = 0.0
            for k in range(2):
                here = place[j, i, k]
                along, across = (1.0, 0.0) if k == 0 else (0.0, 1.0)
                jump = max(jump, abs(place[j, i + 1, k] - here - along), abs(here - place[j, i - 1, k] - along))
                jump = max(jump, abs(place[j + 1, i, k] - here - across), abs(here - place[j - 1, i, k] - across))
            if jump > JUMP_PX * size / 512.0:
                for c in range(3):
                    near = np.int32(sharp[j - 1, i, c]) + sharp[j + 1, i, c] + sharp[j, i - 1, c] + sharp[j, i + 1, c]
                    image[j, i, c] = np.uint8((4 * np.int32(sharp[j, i, c]) + near + 4) // 8)
