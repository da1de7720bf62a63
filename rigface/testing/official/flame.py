"""The open head written as FLAME's files, so that the path through FLAME can be tried and judged without FLAME.

Path: `OpenHead` -> write_flame -> a folder for `load_flame`. The faces that it can make are those of the open head.
Source: the file formats as `rigface.face.head.flame` states them. No FLAME data is in here.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.sparse import csc_matrix

from rigface.face.geometry.landmarks import IBUG_68, LEFT_EYE, LIPS, RIGHT_EYE
from rigface.face.head.open_head import OpenHead

FLAME_2020, FLAME_2023 = "generic_model.pkl", "flame2023.pkl"
FLAME_2023_NO_JAW, FLAME_2023_OPEN = "flame2023_no_jaw.pkl", "flame2023_Open.pkl"
SHAPES, EXPRESSIONS = 300, 100  # directions in the file; the open head fills the first of each, the rest is zero
_SPREAD = 0.25  # standard deviation of a blendshape, for expression directions in units of standard deviations
_TEXTURES = 16  # albedo directions that are not zero
_OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
_BROWS = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
_NOSE = (168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 98, 327, 48)
MEDIAPIPE_105 = (*LIPS, *_OUTER_LIPS, *RIGHT_EYE, *LEFT_EYE, *_BROWS, *_NOSE)


def write_flame(folder: str | Path, name: str = FLAME_2020, steps: int = 1, texture: bool = True) -> Path:
    """Write the open head as a folder of FLAME's files; returns the folder.

    Shape coefficients 0-39 are the open head's own. Expression coefficients 0-51 are the principal components of its
    blendshapes in standard deviations. The jaw turns about the ears, with shares by the blendshape `jawOpen`.

    Args:
        name: of the model's file. 2020 keeps template and directions in chumpy objects, 2023 in plain arrays; without
            jaw, no vertex follows that joint.
        steps: of subdivision: 468, 1,833 or 7,257 vertices, of which the first 468 are MediaPipe's points.
        texture: write `FLAME_texture.npz`, too (some seconds).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = _FlameArrays.of(OpenHead.load(), steps, with_jaw=name != FLAME_2023_NO_JAW)
    with open(folder / name, "wb") as file:
        _dump(head.pickled(chumpy=name == FLAME_2020), file)
    np.save(folder / "landmark_embedding.npy", np.array(head.landmarks(), object), allow_pickle=True)
    (folder / "head_template.obj").write_text(head.obj())
    faces, weights = head.on_surface(MEDIAPIPE_105)
    np.savez(
        folder / "mediapipe_landmark_embedding.npz",
        lmk_face_idx=faces.astype(np.uint32),
        lmk_b_coords=weights,
        landmark_indices=np.array(MEDIAPIPE_105),
    )
    for side in ("Left", "Right"):
        np.save(folder / f"{side[0].lower()}_eyelid.npy", head.blendshape(f"eyeBlink{side}"))
    if texture:
        write_flame_texture(folder)
    return folder


def write_flame_texture(folder: str | Path) -> None:
    """Write `FLAME_texture.npz`: the open head's albedo in texture space, 0-255, BGR, as 512 x 512 texels."""
    mean, directions = _baked()
    whole = np.zeros((512, 512, 3, 200), np.int8)
    whole[..., :_TEXTURES] = directions.repeat(4, 0).repeat(4, 1)
    path = Path(folder) / "FLAME_texture.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in (("mean", mean.repeat(4, 0).repeat(4, 1)), ("tex_dir", whole)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array)


@dataclass(frozen=True, eq=False)
class _FlameArrays:
    """The open head in FLAME's terms, float64."""

    head: OpenHead
    up: np.ndarray  # (V, 468) vertices from control points
    faces: np.ndarray  # (F, 3)
    uv: np.ndarray  # (V, 2)
    jaw_share: np.ndarray  # (V,) in [0, 1]

    @staticmethod
    def of(head: OpenHead, steps: int, with_jaw: bool) -> _FlameArrays:
        up, faces = head.subdivision(steps)
        down = -head.expression[head.spec.expression_names.index("jawOpen"), :, 1]
        upper_lip, lower_lip = down[0], down[17]
        share = np.clip((down - upper_lip) / (lower_lip - upper_lip), 0, 1) * with_jaw
        return _FlameArrays(head, up.astype(float), faces, head.uv(steps), np.clip(up @ share, 0, 1))

    def blendshape(self, name: str) -> np.ndarray:
        """(V, 3) metres for the expression in full."""
        points = self.head.expression[self.head.spec.expression_names.index(name)]
        return np.asarray(self.up @ points)

    def pickled(self, chumpy: bool) -> dict[str, Any]:
        """The content of the model's file."""
        wrapped = _Chumpy if chumpy else np.asarray
        template = self.up @ self.head.template
        shares = np.zeros((len(template), 5))
        shares[:, 1], shares[:, 2] = 1 - self.jaw_share, self.jaw_share
        points = ((152,), (152, 234, 454), (234, 454), (263, 362), (33, 133))  # under root, neck, jaw, left, right eye
        regressor = np.zeros((5, len(template)))
        for row, on in zip(regressor, points, strict=True):
            row[list(on)] = 1 / len(on)
        correctives = np.random.RandomState(5).standard_normal((468, 3 * 36)) * 1e-4
        return {
            "f": self.faces.astype(np.uint32),
            "v_template": wrapped(template),
            "shapedirs": wrapped(self._directions()),
            "posedirs": (self.up @ correctives).reshape(-1, 3, 36),
            "J_regressor": csc_matrix(regressor),
            "J": regressor @ template,
            "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
            "weights": shares,
            "bs_style": "lbs",
            "bs_type": "lrotmin",
        }

    def _directions(self) -> np.ndarray:
        """(V, 3, 400): shape, then expression."""
        points = np.zeros((SHAPES + EXPRESSIONS, 468, 3))
        expression = principal_blendshapes(self.head)
        points[: len(self.head.shape)] = self.head.shape
        points[SHAPES : SHAPES + len(expression)] = expression
        return np.ascontiguousarray(np.einsum("vc,dci->vid", self.up, points, optimize=True))

    def on_surface(self, points: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Triangle (L,) and barycentric weights (L, 3) of control points."""
        corner = [np.argwhere(self.faces == point)[0] for point in points]
        return np.array([face for face, _ in corner]), np.eye(3)[[place for _, place in corner]]

    def landmarks(self) -> dict[str, np.ndarray]:
        """The content of `landmark_embedding.npy`. The contour is the same for every yaw."""
        faces, weights = self.on_surface(IBUG_68)
        return {
            "static_lmk_faces_idx": faces[17:],
            "static_lmk_bary_coords": weights[17:],
            "dynamic_lmk_faces_idx": np.tile(faces[:17], (79, 1)),
            "dynamic_lmk_bary_coords": np.tile(weights[:17], (79, 1, 1)),
            "full_lmk_faces_idx": faces[None],
            "full_lmk_bary_coords": weights[None],
        }

    def obj(self) -> str:
        """The content of `head_template.obj`."""
        lines = [f"v {x:.8f} {y:.8f} {z:.8f}" for x, y, z in self.up @ self.head.template]
        lines += [f"vt {u:.6f} {v:.6f}" for u, v in self.uv]
        lines += ["f " + " ".join(f"{i}/{i}" for i in face) for face in (self.faces + 1).tolist()]
        return "\n".join(lines) + "\n"


def principal_blendshapes(head: OpenHead) -> np.ndarray:
    """(52, 468, 3) principal components of the blendshapes, metres per standard deviation, float64.

    The largest entry of each is positive, so that they are the same on every machine.
    """
    basis = head.expression.reshape(len(head.expression), -1).astype(float)
    _, size, axes = np.linalg.svd(basis, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    return np.asarray((_SPREAD * size[:, None] * axes).reshape(-1, 468, 3))


@lru_cache(maxsize=1)
def _baked() -> tuple[np.ndarray, np.ndarray]:
    """Mean (128, 128, 3) float32 and directions (128, 128, 3, 16) int8 of the albedo in texture space, 0-255, BGR."""
    head = OpenHead.load()
    values = np.concatenate([head.albedo_mean[None], head.albedo[:_TEXTURES]])[..., ::-1] * 255
    flat = np.moveaxis(values, 0, 2).reshape(len(values[0]), -1)
    centres = (np.arange(128) + 0.5) / 128
    u, v = np.meshgrid(centres, 1 - centres)
    texels = LinearNDInterpolator(head.uv(), flat)(u, v)
    texels = np.where(np.isnan(texels), flat.mean(0), texels).reshape(128, 128, 3, -1)
    return texels[..., 0].astype(np.float32), np.rint(texels[..., 1:]).clip(-127, 127).astype(np.int8)


class _Chumpy:
    """An array as chumpy pickles it."""

    x: np.ndarray

    def __init__(self, x: np.ndarray) -> None:
        self.__dict__ |= {"_dirty_vars": {"x"}, "_itr": None, "_make_dense": False, "_make_sparse": False}
        self.__dict__ |= {"_depends_on_deps": {}, "x": x}


def _dump(content: dict[str, Any], file: Any) -> None:
    """Pickle with the protocol and the names of the released file; a module of chumpy's name exists meanwhile."""
    module = ModuleType("chumpy.ch")
    module.Ch = type("Ch", (_Chumpy,), {"__module__": "chumpy.ch"})  # type: ignore[attr-defined]
    content = {k: module.Ch(v.x) if isinstance(v, _Chumpy) else v for k, v in content.items()}
    with patch.dict(sys.modules, {"chumpy": ModuleType("chumpy"), "chumpy.ch": module}):
        pickle.dump(content, file, protocol=2)
