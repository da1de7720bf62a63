"""Openings of eyes and mouth, filled with strips that show eyeballs and teeth behind the mesh.

Path: `warp.py` cuts these openings out of the fitted mesh and fills them with strips from here.

A mesh whose eyes are part of the skin squashes the iris when the lids close, and stretches the teeth when the jaw
drops. Here each opening is a strip between its upper and lower rim, with rows of its own:

* **eye**: the eyeball stays and the upper lid slides over it, so a strip that closes shows less of the source instead
  of all of it squashed. It hangs on the lower lid, which moves little.
* **mouth**: the upper slab (teeth) hangs on the upper lip and the lower one on the lower lip, both at the source's own
  scale; between them a mouth that opens wider than in the source is dark, redder towards the tongue, and in a
  grin there is a hint of teeth.

Lids and lips meet and do not pass through each other: a rim that would cross the other is put onto it (`closed`).
"""

from dataclasses import dataclass

import numpy as np

from rigface.face.geometry.landmarks import LEFT_EYE, LIPS, RIGHT_EYE
from rigface.face.geometry.mesh import boundary_loop

UPPER_TEETH = 0.72  # share of what a parted mouth shows that hangs on the upper lip
SOFT = 0.035  # outer-eye distances over which the inside of a mouth gets dark
NARROW, LASHES = 0.3, 0.8  # an eye narrower than this share of the source's is darkened so far by its lashes
STRETCH = 1.15  # a slab may be that much longer before something dark is put behind it,
FREE, PARTED = 2.0, (0.13, 0.2)  # and by that much more if the source's mouth is parted this far
TEETH, GRIN = 0.1, (1.03, 1.15)  # a mouth that gets this much wider as it opens is a grin, and shows so much of teeth
FOREHEAD, CHIN = 10, 152  # vertices that say which way the face stands in the picture
LIPS_GIVE = 0.025  # lips that part by less are stretched


@dataclass(frozen=True, eq=False)
class Opening:
    """One opening."""

    upper: np.ndarray  # (C,) vertices of the upper rim, both corners included
    lower: np.ndarray  # (C,) of the lower rim, from the same corner
    faces: np.ndarray  # (F,) the mesh's triangles that filled it
    is_mouth: bool  # it has an inside

    @property
    def rows(self) -> int:
        """Number of rows of vertices in its strip."""
        return 8 if self.is_mouth else 2

    def triangles(self, first: int) -> np.ndarray:
        """(F, 3) triangles of the strip, whose vertices are numbered row by row from `first`."""
        columns = len(self.upper)
        grid = first + np.arange(self.rows * columns).reshape(self.rows, columns)
        a, b, c, d = grid[:-1, :-1].ravel(), grid[:-1, 1:].ravel(), grid[1:, :-1].ravel(), grid[1:, 1:].ravel()
        return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])

    @property
    def rims(self) -> np.ndarray:
        """(rows * C,) the mesh vertex that each vertex of the strip takes its light from."""
        half = self.rows // 2
        return np.concatenate([np.tile(self.upper, half), np.tile(self.lower, half)])

    def strip(self, source: np.ndarray, wanted: np.ndarray, eyes: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows * C) source positions (2), positions to draw at (3), and shares of dark, tongue and teeth (3).

        Both meshes (V, 3) are crop px, `closed`; `eyes` is the outer-eye distance, px.
        """
        upper, lower = source[self.upper, :2], source[self.lower, :2]
        top, bottom = wanted[self.upper], wanted[self.lower]
        was = np.linalg.norm(lower - upper, axis=1)
        now = np.linalg.norm((bottom - top)[:, :2], axis=1)
        if not self.is_mouth:
            shown = np.minimum((now + 0.01) / (was + 0.01), 1)[:, None]  # 1 in the corners
            lashes = LASHES * np.clip(1 - shown / NARROW, 0, 1)
            return (
                np.concatenate([lower + shown * (upper - lower), lower]),
                np.concatenate([top, bottom]),
                np.tile(np.concatenate([lashes, 0 * lashes, 0 * lashes], axis=1), (2, 1)),
            )
        elastic = STRETCH + FREE * np.clip((was.max() / eyes - PARTED[0]) / (PARTED[1] - PARTED[0]), 0, 1)
        new = np.maximum(now - elastic * was - LIPS_GIVE * eyes, 0)  # px of each column that the source does not show
        ramp = np.minimum(SOFT * eyes, 0.4 * new)
        slab = now - new
        wider = np.linalg.norm((top[-1] - top[0])[:2]) / max(float(np.linalg.norm(upper[-1] - upper[0])), 1e-6)
        grin = np.clip((wider - GRIN[0]) / (GRIN[1] - GRIN[0]), 0, 1) * np.clip(1 - was / (SOFT * eyes), 0, 1)
        teeth = np.minimum(0.75 * new, TEETH * eyes) - ramp
        down = [0 * now, UPPER_TEETH * slab, UPPER_TEETH * slab + ramp]
        down += [down[2] + np.maximum(teeth, 0), down[2] + np.maximum(teeth, 0) + 0.5 * ramp]
        down += [now - (1 - UPPER_TEETH) * slab - 0.5 * ramp, now - (1 - UPPER_TEETH) * slab, now]
        down = list(np.maximum.accumulate(np.minimum(down, now), axis=0))
        along = (bottom - top) / np.maximum(now, 1e-6)[:, None]
        split = upper + UPPER_TEETH * (lower - upper)
        inside = np.zeros((8, len(now), 3))
        inside[2:6, :, 0] = np.clip(new / (SOFT * eyes), 0, 1)
        inside[5, :, 1] = 1
        side = np.linspace(-1, 1, len(now))
        inside[2:4, :, 2] = grin * np.clip(1.15 - side**2, 0, 1)  # darker towards the corners
        return (
            np.concatenate([upper, *[split] * 6, lower]),
            np.concatenate([top + d[:, None] * along for d in down]),
            inside.reshape(-1, 3),
        )


def find_openings(control_faces: np.ndarray, faces: np.ndarray, count: int, steps: int) -> list[Opening]:
    """The three openings of the canonical mesh after `steps` subdivisions.

    Of its `count` = 468 control points `control_faces` (F, 3) are the triangles; `faces` (4^steps F, 3) are in the same
    order.
    """
    out = []
    for loop in (RIGHT_EYE, LEFT_EYE, LIPS):
        on_loop = np.zeros(count, bool)
        on_loop[list(loop)] = True
        inside = np.repeat(on_loop[control_faces].all(1), 4**steps)
        rim = boundary_loop(faces[inside])
        first = int(np.flatnonzero(rim == loop[0])[0])
        rim = np.roll(rim, -first)
        half = len(rim) // 2  # both rims have as many vertices, so the other corner is half way round
        first_rim, second_rim = rim[: half + 1], np.append(rim[half:], rim[0])[::-1]
        upper, lower = (first_rim, second_rim) if loop[1] in first_rim else (second_rim, first_rim)
        out.append(Opening(upper, lower, np.flatnonzero(inside), loop is LIPS))
    return out


def close_opening(opening: Opening, points: np.ndarray) -> np.ndarray:
    """The mesh (V, 3), crop px, its crossed rims put onto each other: lids on the lower one, lips half way."""
    upper, lower = points[opening.upper], points[opening.lower]
    across = upper[-1, :2] - upper[0, :2]
    down = np.array([-across[1], across[0]]) / max(float(np.hypot(*across)), 1e-6)
    down = down if down @ (points[CHIN, :2] - points[FOREHEAD, :2]) > 0 else -down
    crossed = np.minimum((lower - upper)[:, :2] @ down, 0)[:, None] * down
    if not crossed.any():
        return points
    share = 0.5 if opening.is_mouth else 1.0
    out = points.copy()
    out[opening.upper, :2] += share * crossed
    out[opening.lower, :2] -= (1 - share) * crossed
    return out
