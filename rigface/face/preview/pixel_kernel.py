"""Pixel loop of the preview: source position, light and background of each pixel.

Path: `warp.py` lays out vertices and their attributes -> paint_pixels -> image, mask, and the invented share.

The photograph is read by cubic convolution (Keys 1981, a = -0.5). A preview is then as sharp as one that is drawn
bilinearly at twice the size and reduced, in a quarter of the time; bilinear reading alone keeps three quarters of the
energy of fine detail.

Colours are handled as they are stored, in sRGB: a ratio of lights is raised to 1/2.2 beforehand, so it stays one
product. Brightened colours bend below white instead of being cut off there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rigface.face.rendering.jit import compiled

# Columns of the vertex table.
HERE, TWIN, SEEN, DARK, TONGUE, TEETH, LIT, TWIN_LIT, WIDTH = 0, 2, 4, 5, 6, 7, 8, 11, 14

KNEE = 0.8  # of white, from which brightened colours bend
SETTLED_PX = 0.35  # of 512: a pixel that would move by less keeps its place, and stays sharp
JUMP_PX = 4.0  # of 512: neighbours that come from places so far apart are of two pieces
STILL_PX, MOVED_PX = 3.0, 14.0  # of 512: displacements between which the background stops moving with the person


def paint_pixels(*arrays: np.ndarray) -> None:
    """`_paint` as machine code; the same arguments."""
    compiled(_paint, fastmath=True)(*arrays)


def _paint(
    face: Any, shares: Any, triangles: Any, table: Any, inside: Any, crop: Any, mask: Any, soft: Any, back: Any,
    hole: Any, image: Any, new_mask: Any, invented: Any,
) -> None:  # fmt: skip
    """Fill the preview. Compiled by numba.

    Args:
        face, shares: (S, S) int32 and (S, S, 3): what `rasterize` found; triangles (F, 3).
        table: (V, WIDTH) float32, the columns named above. Places in px; lights as factors.
        inside: (3, 3) the dark of a mouth, and the colours of its tongue and teeth.
        crop: (S + 3, S + 3, 3) uint8, its border repeated once before and twice after.
        mask: (S, S) uint8, and soft: the same with soft edges; or (0, 0). back, hole: from `inpaint_background`, or
            (0, 0, 3) and (0, 0).
        image, new_mask, invented: to be filled.
    """
    size = face.shape[0]

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
            row = crop[b + 1]
            return np.float64(row[a + 1, 0]), np.float64(row[a + 1, 1]), np.float64(row[a + 1, 2])
        p1, q1 = 1 - p, 1 - q
        x0, x1, x2, x3 = -p * p1 * p1 / 2, 1 - p * p * (5 - 3 * p) / 2, 1 - p1 * p1 * (5 - 3 * p1) / 2, -p1 * p * p / 2
        down = -q * q1 * q1 / 2, 1 - q * q * (5 - 3 * q) / 2, 1 - q1 * q1 * (5 - 3 * q1) / 2, -q1 * q * q / 2
        red, green, blue = 0.0, 0.0, 0.0
        for n in range(4):
            row = crop[b + n, a : a + 4]
            red += down[n] * (x0 * row[0, 0] + x1 * row[1, 0] + x2 * row[2, 0] + x3 * row[3, 0])
            green += down[n] * (x0 * row[0, 1] + x1 * row[1, 1] + x2 * row[2, 1] + x3 * row[3, 1])
            blue += down[n] * (x0 * row[0, 2] + x1 * row[1, 2] + x2 * row[2, 2] + x3 * row[3, 2])
        return red, green, blue

    masked, layered = mask.shape[0] > 0, back.shape[0] > 0
    unit = size / 512.0
    place = np.empty((size, size, 2), np.float32)  # the source position of each pixel

    for j in range(size):
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
            new = 1 - visible
            mirrored = visible < 0.999
            a, b, p, q = corner(x, y)
            own = colours(a, b, p, q)
            twin = own
            if mirrored:
                ta, tb, tp, tq = corner(
                    w0 * at0[TWIN] + w1 * at1[TWIN] + w2 * at2[TWIN],
                    w0 * at0[TWIN + 1] + w1 * at1[TWIN + 1] + w2 * at2[TWIN + 1],
                )
                twin = colours(ta, tb, tp, tq)
            person = 1.0
            if masked:
                person, level = grey(soft, a, b, p, q) / 255.0, grey(mask, a, b, p, q)
                if mirrored:
                    person = visible * person + (1 - visible) * grey(soft, ta, tb, tp, tq) / 255.0
                    level = visible * level + (1 - visible) * grey(mask, ta, tb, tp, tq)
                new_mask[j, i] = np.uint8(level + 0.5)
            covered = 0.0
            if layered and person < 0.999:
                covered = (1 - person) * min(max((np.sqrt(moved) - STILL_PX) / (MOVED_PX - STILL_PX), 0.0), 1.0)
                new = max(new, covered * hole[j, i] / 255.0)
            dark = w0 * at0[DARK] + w1 * at1[DARK] + w2 * at2[DARK]
            if dark > 0:
                new = max(new, dark)
                tongue = w0 * at0[TONGUE] + w1 * at1[TONGUE] + w2 * at2[TONGUE]
                teeth = w0 * at0[TEETH] + w1 * at1[TEETH] + w2 * at2[TEETH]
            for c in range(3):
                lit = w0 * at0[LIT + c] + w1 * at1[LIT + c] + w2 * at2[LIT + c]
                lit = 1 + person * (lit - 1)
                value = lit * own[c]
                if mirrored:
                    twin_lit = w0 * at0[TWIN_LIT + c] + w1 * at1[TWIN_LIT + c] + w2 * at2[TWIN_LIT + c]
                    twin_lit = 1 + person * (twin_lit - 1)
                    value = visible * value + (1 - visible) * twin_lit * twin[c]
                if dark > 0:
                    depth = inside[0, c] + tongue * tongue * (inside[1, c] - inside[0, c])
                    depth += teeth * (inside[2, c] - depth)
                    value += dark * (lit * depth - value)
                if lit > 1 and value > KNEE * 255:
                    over = value / 255.0 - KNEE
                    bent = 255 * (KNEE + (1 - KNEE) * over / (over + 1 - KNEE))
                    value += min(1.0, 4 * (lit - 1)) * (bent - value)
                if covered > 0:
                    shown = np.float64(crop[j + 1, i + 1, c])
                    behind = shown + hole[j, i] / 255.0 * (back[j, i, c] - shown)
                    value += covered * (behind - value)
                image[j, i, c] = np.uint8(min(255.0, max(0.0, value) + 0.5))
            invented[j, i] = new

    # Where one piece of the mesh hides another the picture jumps from pixel to pixel; half a pixel of blur hides the
    # steps.
    sharp = image.copy()
    for j in range(1, size - 1):
        for i in range(1, size - 1):
            if face[j, i] < 0:
                continue
            jump = 0.0
            for k in range(2):
                here = place[j, i, k]
                along, across = (1.0, 0.0) if k == 0 else (0.0, 1.0)
                jump = max(jump, abs(place[j, i + 1, k] - here - along), abs(here - place[j, i - 1, k] - along))
                jump = max(jump, abs(place[j + 1, i, k] - here - across), abs(here - place[j - 1, i, k] - across))
            if jump > JUMP_PX * unit:
                for c in range(3):
                    near = np.int32(sharp[j - 1, i, c]) + sharp[j + 1, i, c] + sharp[j, i - 1, c] + sharp[j, i + 1, c]
                    image[j, i, c] = np.uint8((4 * np.int32(sharp[j, i, c]) + near + 4) // 8)
