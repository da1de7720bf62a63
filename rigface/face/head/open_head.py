"""The open head: an openly licensed face model in the layout of FLAME.

Path: `data/open_head.npz` -> OpenHead -> fit (crops -> coefficients) and `Head` (coefficients -> vertices).
Source: MediaPipe's canonical face mesh (Apache-2.0), 468 control points, subdivided to 7,257 vertices; the bases are
learnt from openly licensed portraits and clips by `scripts/build_open_head.py`, which also lists them.

What the axes mean:

* `shape` (40): principal components of people's neutral faces, in standard deviations. Each is mirror symmetric or
  mirror antisymmetric, so mirroring a face only changes signs.
* `expression` (52): one axis per MediaPipe blendshape and of the same name, 1 = the expression in full. `_neutral` is
  among them because the detector reports it; its axis is zero.
* `albedo`: principal components of de-lit skin per vertex, linear RGB, mirror symmetric, none of which changes the mean
  skin luminance of 0.3; after them one axis per colour that scales the mean albedo (`tone`). One photograph of a face
  alone does not tell dark skin in bright light from light skin in dim light, so these three are estimated by
  themselves, from what else is in view (`skin_tone.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from rigface.colour import LUMINANCE
from rigface.face.geometry.landmarks import LAYOUTS
from rigface.types import HeadSpec

if TYPE_CHECKING:
    from rigface.face.head.head_model import Head

STEPS = 2  # 468 control points -> 1,833 -> 7,257 vertices
SKIN_LUMINANCE = 0.3  # mean over the skin of the mean albedo, and of every albedo whose tone is 0
TONES = 3  # last axes of the albedo: red, green, blue
TONE_STD = 0.4  # of the reflectance of people's skin, as a share of the mean's


@dataclass(frozen=True, eq=False)
class OpenHead:
    """Arrays of the open head; lengths in metres, head frame (see `types.py`), whose origin the head turns about."""

    template: np.ndarray  # (468, 3) float32 mean neutral face
    shape: np.ndarray  # (S, 468, 3) float32 metres per standard deviation
    expression: np.ndarray  # (E, 468, 3) float32 metres for the expression in full
    control_faces: np.ndarray  # (898, 3) int32 triangles of the control points
    control_uv: np.ndarray  # (468, 2) float32 texture coordinates in [0, 1], v up
    albedo_mean: np.ndarray  # (7257, 3) float32 linear reflectance
    albedo: np.ndarray  # (A - 3, 7257, 3) float32 per standard deviation, principal components
    skin: np.ndarray  # (7257,) bool, vertices that are skin: not eyes, lips, brows
    mirror: np.ndarray  # (468,) int32, the control point on the other side
    spec: HeadSpec  # names and sizes

    @staticmethod
    @lru_cache(maxsize=1)
    def load() -> OpenHead:
        """The head that ships with the package; read once per process, do not write into its arrays."""
        with np.load(str(files("rigface") / "data" / "open_head.npz"), allow_pickle=False) as data:
            albedo = data["albedo_levels"].astype(np.float32) * data["albedo_step"][:, None, None]
            spec = HeadSpec(
                name="open",
                version=str(data["version"]),
                shape=len(data["shape"]),
                expression=len(data["expression"]),
                albedo=len(albedo) + TONES,
                expression_names=tuple(data["expression_names"].tolist()),
            )
            same = ("template", "shape", "expression", "control_uv", "albedo_mean")
            arrays = {name: data[name].astype(np.float32) for name in same}
            whole = {name: data[name].astype(np.int32) for name in ("control_faces", "mirror")}
            return OpenHead(**arrays, **whole, albedo=albedo, skin=data["skin"].astype(bool), spec=spec)

    @property
    def albedo_axes(self) -> np.ndarray:
        """(A, 7257, 3) float32 all axes of the albedo per standard deviation: `albedo`, then the tone."""
        tone = TONE_STD * self.albedo_mean * np.eye(TONES, dtype=np.float32)[:, None]
        return np.concatenate([self.albedo, tone])

    def skin_colour(self, coefficients: np.ndarray) -> np.ndarray:
        """Reflectance (N, 3) of `plain_skin`, linear RGB, from albedo coefficients (N, A)."""
        axes = self.albedo_axes[: coefficients.shape[1], self.plain_skin].mean(1)
        return np.asarray(self.albedo_mean[self.plain_skin].mean(0) + coefficients @ axes)

    def with_skin_colour(self, coefficients: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """Albedo coefficients (N, A) whose `plain_skin` has these colours (N, 3), linear RGB above 0.

        Their details grow and shrink with the skin's luminance.
        """
        own = self.skin_colour(coefficients)
        details = coefficients[:, :-TONES] * ((colour @ LUMINANCE) / (own @ LUMINANCE))[:, None]
        mean, axes = self.albedo_mean[self.plain_skin].mean(0), self.albedo[:, self.plain_skin].mean(1)
        tone = ((colour - details @ axes) / mean - 1) / TONE_STD
        return np.concatenate([details, tone], axis=1).astype(np.float32)

    @cached_property
    def plain_skin(self) -> np.ndarray:
        """(7257,) bool vertices of cheeks and forehead: mostly free of beards, brows and glasses."""
        points = self.subdivision()[0] @ self.template
        inside = [_in_hull(points[:, :2], self.template[list(polygon), :2]) for polygon in LAYOUTS[478].skin]
        return np.asarray(np.any(inside, axis=0) & (points[:, 2] > 0))

    def subdivision(self, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
        """(V, 468) float32 weights from control points to vertices, and (F, 3) int32 faces.

        The first 468 vertices are the control points themselves; the vertices of fewer steps come first.
        """
        return _subdivision(self.control_faces.tobytes(), len(self.template), steps)

    def uv(self, steps: int = STEPS) -> np.ndarray:
        """(V, 2) float32 texture coordinates of the vertices."""
        from rigface.face.geometry.subdivision import subdivide_linear  # imports scipy.sparse

        return subdivide_linear(self.control_faces, self.control_uv, steps).astype(np.float32)

    def head(self, steps: int = STEPS) -> Head:
        """This model as a `Head`, the class that also reads FLAME. One joint: the whole face turns about the origin."""
        from rigface.face.head.head_model import Head

        weights, faces = self.subdivision(steps)

        def fine(basis: np.ndarray) -> np.ndarray:
            return np.asarray(np.einsum("vc,kci->vik", weights, basis, optimize=True))

        return Head.from_arrays(
            spec=self.spec,
            landmarks=np.arange(len(self.template)),
            template=weights @ self.template,
            shape_basis=fine(self.shape),
            expression_basis=fine(self.expression),
            faces=faces,
            uv=self.uv(steps),
            uv_faces=faces,
            albedo_mean=self.albedo_mean[: len(weights)],
            albedo_basis=np.ascontiguousarray(np.moveaxis(self.albedo_axes[:, : len(weights)], 0, 2)),
        )


def has_tone(spec: HeadSpec) -> bool:
    """True for a head whose albedo is the open head's, which ends with the axes of the tone."""
    return spec.name == "open" or spec.albedo_source.startswith("open:")


def _in_hull(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(P,) bool: points (P, 2) inside, or on the outline of, the convex hull of (C, 2)."""
    import cv2  # not for those who read names and sizes

    hull = cv2.convexHull(corners.astype(np.float32))[:, 0].astype(np.float64)  # clockwise, y upwards
    x, y = (np.roll(hull, -1, axis=0) - hull).T
    away = points[:, None] - hull
    turn = x * away[..., 1] - y * away[..., 0]
    return np.asarray(np.all(turn <= 1e-10, axis=1) | np.all(turn >= -1e-10, axis=1))


@lru_cache(maxsize=4)
def _subdivision(faces: bytes, count: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    from rigface.face.geometry.subdivision import subdivide_interpolating

    weights, fine = subdivide_interpolating(np.frombuffer(faces, np.int32).reshape(-1, 3), count, steps)
    return weights.astype(np.float32), fine.astype(np.int32)
