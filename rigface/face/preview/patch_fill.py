"""Texture for a hole from patches of the same picture, coarse to fine.

Path: `inpainting.py`, picture and hole -> PatchFill -> the picture's own pixels in the hole's rim.
Source: space-time completion by patches (Wexler, Shechtman and Irani, PAMI 2007) with the randomised nearest neighbours
of PatchMatch (Barnes et al., SIGGRAPH 2009). Each pixel of the rim gets an offset to a patch that is fully known; what
its neighbours' patches say of it is averaged, and the search is repeated. Sums are over 7 x 7 px at 32, 64 and 128 px
a side; the last offsets are read at the picture's own resolution.

The random numbers are seeded: the same picture is filled in the same way.
"""

from typing import Any

import cv2
import numpy as np

from rigface.face.rendering.jit import compiled
from rigface.image import resized

SIDES = (32, 64, 128)
ROUNDS = (5, 5, 3)  # of matching and averaging, at these sides
REACH = 3  # px: half the side of a patch
FAR = 0.3  # squared grey levels, by which a patch 1 px of 128 further away must be better, times its distance squared
MIN_PATCHES = 20


def fill_by_patches(picture: np.ndarray, hole: np.ndarray, rim: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8: `start`, with the picture's own texture in the rim of its hole.

    Args:
        picture: (S, S, 3) uint8.
        hole: (128, 128) bool, what is not known.
        rim: (128, 128) bool, the part of the hole to fill.
        start: (S, S, 3) uint8, a first guess in the hole.
    """
    offsets: np.ndarray | None = None
    for side, rounds in zip(SIDES, ROUNDS):
        missing, wanted = (resized(m.astype(np.float32), side) > 0 for m in (hole, rim))
        sources = cv2.erode((~missing).astype(np.uint8), np.ones((2 * REACH + 1,) * 2, np.uint8), borderValue=0) > 0
        if sources.sum() < MIN_PATCHES:
            continue
        known = resized(picture, side).astype(np.float32)
        guess = np.where(missing[..., None], resized(start, side), known).astype(np.float32)
        coarse = None if offsets is None else np.repeat(np.repeat(2 * offsets, 2, axis=0), 2, axis=1)
        offsets, cost = _nearest(sources, coarse), np.zeros((side, side), np.float32)
        far = np.float32(FAR * (SIDES[-1] / side) ** 2)
        for k in range(rounds + 1):
            passes = min(k, 1) * 2 if coarse is not None else 2  # coarser offsets are averaged before they are doubted
            compiled(_match)(guess, wanted, sources, offsets, cost, far, passes, k)
            compiled(_average)(guess.copy(), wanted, offsets, cost, guess)
    if offsets is None or len(offsets) != SIDES[-1]:
        return start
    out, moves = start.copy(), np.rint(len(picture) / SIDES[-1] * offsets).astype(np.int32)
    compiled(_read)(np.ascontiguousarray(picture), rim, moves, out)
    return out


def _nearest(sources: np.ndarray, offsets: np.ndarray | None) -> np.ndarray:
    """(h, w, 2) int32 offsets y, x that end on the source next to where the given ones end, or next to the pixel."""
    side = len(sources)
    here = np.moveaxis(np.mgrid[:side, :side], 0, 2)
    ends = here if offsets is None else np.clip(here + offsets, 0, side - 1)
    _, labels = cv2.distanceTransformWithLabels(
        (~sources).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(sources)
    places = np.zeros((labels.max() + 1, 2), np.int64)
    places[labels[rows, columns]] = np.stack([rows, columns], axis=1)
    return np.ascontiguousarray(places[labels[ends[..., 0], ends[..., 1]]] - here, np.int32)


def _match(
    guess: Any, wanted: Any, sources: Any, offsets: Any, cost: Any, far: Any, passes: Any, seed: Any
) -> None:  # fmt: skip
    """Improve `offsets` in place, and write the cost of each. Compiled by numba.

    Args:
        guess: (h, h, 3) float32. wanted, sources: (h, h) bool, pixels to match, and centres of known patches.
        offsets: (h, h, 2) int32. cost: (h, h) float32. far: see `FAR`. passes: over the picture; 0 only writes costs.
    """
    side = len(guess)
    state = np.uint32(2654435761 * (seed + 1))

    def difference(j: Any, i: Any, y: Any, x: Any, enough: Any) -> Any:
        total = far * np.float32((y - j) ** 2 + (x - i) ** 2)
        for dy in range(max(-REACH, -j), min(REACH, side - 1 - j) + 1):
            if total >= enough:
                break
            for dx in range(max(-REACH, -i), min(REACH, side - 1 - i) + 1):
                for c in range(3):
                    apart = guess[j + dy, i + dx, c] - guess[y + dy, x + dx, c]
                    total += apart * apart
        return total

    for j in range(side):
        for i in range(side):
            if wanted[j, i]:
                cost[j, i] = difference(j, i, j + offsets[j, i, 0], i + offsets[j, i, 1], np.float32(np.inf))
    for turn in range(passes):
        step = 1 if turn % 2 == 0 else -1
        for row in range(side):
            j = row if step == 1 else side - 1 - row
            for column in range(side):
                i = column if step == 1 else side - 1 - column
                if not wanted[j, i]:
                    continue
                radius = side // 3
                for trial in range(9):  # two neighbours' offsets, then random ones, nearer each time
                    dy, dx = offsets[j, i]
                    if trial < 2:
                        y, x = (j - step, i) if trial == 0 else (j, i - step)
                        if not (0 <= y < side and 0 <= x < side and wanted[y, x]):
                            continue
                        dy, dx = offsets[y, x]
                    else:
                        if radius < 1:
                            break
                        state = state * np.uint32(1664525) + np.uint32(1013904223)
                        dy += np.int32(state >> np.uint32(16)) % (2 * radius + 1) - radius
                        state = state * np.uint32(1664525) + np.uint32(1013904223)
                        dx += np.int32(state >> np.uint32(16)) % (2 * radius + 1) - radius
                        radius //= 2
                    y, x = j + dy, i + dx
                    if 0 <= y < side and 0 <= x < side and sources[y, x]:
                        found = difference(j, i, y, x, cost[j, i])
                        if found < cost[j, i]:
                            cost[j, i], offsets[j, i, 0], offsets[j, i, 1] = found, dy, dx


def _average(guess: Any, wanted: Any, offsets: Any, cost: Any, out: Any) -> None:
    """Average what the patches around each wanted pixel say of it, the better ones more. Compiled by numba."""
    side = len(guess)
    for j in range(side):
        for i in range(side):
            if not wanted[j, i]:
                continue
            red, green, blue, total = 0.0, 0.0, 0.0, 0.0
            for y in range(max(j - REACH, 0), min(j + REACH, side - 1) + 1):
                for x in range(max(i - REACH, 0), min(i + REACH, side - 1) + 1):
                    if not wanted[y, x]:
                        continue
                    there, at = j + offsets[y, x, 0], i + offsets[y, x, 1]
                    if 0 <= there < side and 0 <= at < side:
                        weight = 1 / (1 + 1e-7 * np.float64(cost[y, x]) ** 2)
                        red += weight * guess[there, at, 0]
                        green += weight * guess[there, at, 1]
                        blue += weight * guess[there, at, 2]
                        total += weight
            out[j, i, 0], out[j, i, 1], out[j, i, 2] = red / total, green / total, blue / total


def _read(picture: Any, rim: Any, moves: Any, out: Any) -> None:
    """Fill `out` (S, S, 3) in the rim (h, h) by pixels of the picture, a mean of those that four `moves` (h, h, 2),
    px, lead to, the nearer ones more. Compiled by numba.
    """
    size, side = len(picture), len(rim)
    scale = size / side
    for j in range(size):
        v = max((j + 0.5) / scale - 0.5, 0.0)
        a = min(int(v), side - 2)
        for i in range(size):
            u = max((i + 0.5) / scale - 0.5, 0.0)
            b = min(int(u), side - 2)
            red, green, blue, total = 0.0, 0.0, 0.0, 0.0
            for y in range(a, a + 2):
                for x in range(b, b + 2):
                    if rim[y, x]:
                        weight = (1 - abs(v - y)) * (1 - abs(u - x))
                        there = min(max(j + moves[y, x, 0], 0), size - 1)
                        at = min(max(i + moves[y, x, 1], 0), size - 1)
                        red += weight * picture[there, at, 0]
                        green += weight * picture[there, at, 1]
                        blue += weight * picture[there, at, 2]
                        total += weight
            if total > 0.05:
                out[j, i, 0] = np.uint8(red / total + 0.5)
                out[j, i, 1] = np.uint8(green / total + 0.5)
                out[j, i, 2] = np.uint8(blue / total + 0.5)
