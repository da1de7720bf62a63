"""Read a folder of FLAME's released files into a `Head`.

Path: a user's own copy of FLAME -> load_flame -> `head_model.Head`. The files are licensed and never ship with this
project.
Source: the formats of FLAME's `generic_model.pkl` (2020) and `flame2023*.pkl`, of the landmark embedding and template
that DECA adds, and of the MediaPipe embedding and eyelids that SMIRK adds.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rigface.assets import fingerprint
from rigface.errors import BadCheckpoint, MissingAsset
from rigface.face.head import safe_pickle
from rigface.face.head.flame_texture import load_texture
from rigface.face.head.head_model import Head
from rigface.types import HeadSpec

Texture = Literal["any", "none", "flame", "basel"]

MODELS = ("generic_model.pkl", "flame2023.pkl", "flame2023_no_jaw.pkl", "flame2023_Open.pkl")
TEXTURES: dict[Texture, str] = {"flame": "FLAME_texture.npz", "basel": "FLAME_albedo_from_BFM.npz"}
_SHAPES = 300  # the file's 400 directions are 300 of shape, then 100 of expression
_ALBEDO = 50  # directions of the texture that DECA uses
_NECK, _JAW = 1, 2  # the joints after the first, which turns the whole head; the last two are the eyes
_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")
_EMBEDDING_KEYS = tuple(f"{k}_lmk_{v}" for k in ("static", "dynamic", "full") for v in ("faces_idx", "bary_coords"))
_SITE = "FLAME is downloaded from flame.is.tue.mpg.de after accepting its licence"


def load_flame(
    folder: str | PathLike[str], shape: int = 100, expression: int = 50, *, texture: Texture = "any"
) -> Head:
    """FLAME from a model, `landmark_embedding.npy` and `head_template.obj` in one folder.

    Read if they are there: a texture (50 directions), `mediapipe_landmark_embedding.npz`, and `l_eyelid.npy` and
    `r_eyelid.npy`. The pickles are read as data and never executed (see `safe_pickle.py`). The model without jaw is
    known by its name or its four joints; if there are five, the one of the jaw stays at rest.

    Args:
        folder: the folder, of which the first of `MODELS` is taken, or the path of one model in it.
        shape, expression: how many of the file's coefficients to keep; at most 300 and 100.
        texture: `flame` or `basel` insist on their file, `any` takes the first there is.

    Raises:
        MissingAsset: a file is not there.
        UnsafeFile: a file asks to run something.
        BadCheckpoint: a file is damaged, or not FLAME's.
        ValueError: the file has fewer coefficients, or its arrays do not fit each other.
    """
    model_file = _model_file(Path(folder))
    folder = model_file.parent
    embedding_file, template_file = (_required(folder / n) for n in ("landmark_embedding.npy", "head_template.obj"))
    model = _held(model_file, safe_pickle.load_pickle(model_file), _KEYS)
    embedding = _held(embedding_file, safe_pickle.load_npy(embedding_file), _EMBEDDING_KEYS)
    basis = np.asarray(model["shapedirs"], np.float32)
    if basis.ndim != 3 or basis.shape[2] <= _SHAPES:
        raise BadCheckpoint(f"{model_file.name}: want shapedirs (V, 3, 400), got {basis.shape}. {_SITE}")
    expressions = basis.shape[2] - _SHAPES
    if not (0 < shape <= _SHAPES and 0 < expression <= expressions):
        raise ValueError(
            f"want 1-{_SHAPES} shape and 1-{expressions} expression coefficients, got {shape} and {expression}"
        )
    parents = (-1, *model["kintree_table"][0][1:])  # the file's first parent is -1 as an unsigned number
    if len(parents) not in (4, 5):
        raise BadCheckpoint(f"{model_file.name}: want the joints head, neck, jaw and eyes, got {len(parents)}. {_SITE}")
    eyes = len(parents) - 2, len(parents) - 1
    faces = np.asarray(model["f"], np.int64)

    def points(kind: str) -> tuple[np.ndarray, np.ndarray]:
        on, weights = embedding[f"{kind}_lmk_faces_idx"], embedding[f"{kind}_lmk_bary_coords"]
        if len(on) == 0 or int(np.max(on)) >= len(faces):
            raise BadCheckpoint(
                f"{embedding_file.name}: want triangles below {len(faces)}, those of this FLAME. {_SITE}"
            )
        return (faces[on[0]], weights[0]) if kind == "full" else (faces[on], weights)  # "full" has a batch of one

    uv, uv_faces = _texture_coordinates(template_file)
    arrays = _texture(folder, texture) | _eyelids(folder) | _mediapipe(folder, faces)
    has_eyes = bool((np.asarray(model["weights"])[:, eyes] > 0.5).any())
    extras = tuple(n for n, there in (("eye_rotations", has_eyes), ("eyelids", "eyelids" in arrays)) if there)
    has_texture = "texture_mean" in arrays
    spec = HeadSpec(
        "flame",
        f"sha256:{fingerprint(model_file)}",
        shape,
        expression,
        _ALBEDO if has_texture else 0,
        albedo_source=arrays.pop("source", ""),
        colours="display" if has_texture else "linear",
        extras=extras,
        licence=licence_of(model_file),
    )
    return Head.from_arrays(
        spec,
        template=model["v_template"],
        shape_basis=basis[:, :, :shape],
        expression_basis=basis[:, :, _SHAPES : _SHAPES + expression],
        pose_basis=model["posedirs"],
        faces=faces,
        parents=parents,
        joint_regressor=_dense(model["J_regressor"]),
        skinning=model["weights"],
        neck=_NECK,
        jaw=None if len(parents) == 4 or "no_jaw" in model_file.name else _JAW,
        eyes=eyes,
        landmarks=points("full"),
        inner=points("static"),
        contour=points("dynamic"),
        uv=uv,
        uv_faces=uv_faces,
        **arrays,
    )


def models_in(folder: str | PathLike[str]) -> list[Path]:
    """The FLAME models of a folder, in the order in which they are preferred; the path of a model gives itself."""
    folder = Path(folder)
    return [folder] if folder.is_file() else [p for name in MODELS if (p := folder / name).is_file()]


def licence_of(model_file: Path) -> str:
    """The licence that a model's folder states, as the first line of its licence file; else the place to read it."""
    for folder in (model_file.parent, model_file.resolve().parent):  # an adopted model is a link
        for path in sorted(folder.glob("*")):
            if path.is_file() and path.name.lower().startswith(("licen", "copying")):
                text = path.read_bytes()[:4096].decode("utf-8", "replace")
                if line := next((" ".join(row.split()) for row in text.splitlines() if row.strip()), ""):
                    return f"{path.name}: {line[:200]}"
    return "its folder states none; see flame.is.tue.mpg.de"


def _model_file(folder: Path) -> Path:
    if found := models_in(folder):
        return found[0]
    return _required(folder if folder.suffix == ".pkl" else folder / MODELS[0])


def _required(path: Path) -> Path:
    if not path.is_file():
        raise MissingAsset(f"{path} is not there; {_SITE}")
    return path


def _held(path: Path, content: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """The arrays of a file; BadCheckpoint if some are missing."""
    if isinstance(content, dict) and not (missing := sorted(set(keys) - set(content))):
        return content
    came = f"it lacks {', '.join(missing)}" if isinstance(content, dict) else f"it holds a {type(content).__name__}"
    raise BadCheckpoint(f"{path.name}: want FLAME's arrays {', '.join(keys)}; {came}. {_SITE}")


def _texture(folder: Path, kind: Texture) -> dict[str, Any]:
    if kind == "none":
        return {}
    if kind == "any":
        there: list[Texture] = [name for name in TEXTURES if (folder / TEXTURES[name]).is_file()]
        return _texture(folder, there[0]) if there else {}
    path = _required(folder / TEXTURES[kind])
    mean, basis = load_texture(path, _ALBEDO)
    return {"texture_mean": mean, "texture_basis": basis, "source": f"{kind}:{fingerprint(path)}"}


def _eyelids(folder: Path) -> dict[str, Any]:
    """SMIRK's two blendshapes, which its authors keep beside the model."""
    paths = [folder / "l_eyelid.npy", folder / "r_eyelid.npy"]
    if not all(path.is_file() for path in paths):
        return {}
    return {"eyelids": np.stack([np.asarray(safe_pickle.load_npy(path), np.float32) for path in paths], -1)}


def _mediapipe(folder: Path, faces: np.ndarray) -> dict[str, Any]:
    """The published points of MediaPipe's mesh on FLAME's surface."""
    path = folder / "mediapipe_landmark_embedding.npz"
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as data:
            on, weights, points = (data[k] for k in ("lmk_face_idx", "lmk_b_coords", "landmark_indices"))
        return {"mediapipe": (faces[on.astype(np.int64)], weights), "mediapipe_points": points}
    except (KeyError, ValueError, OSError, EOFError, IndexError) as error:
        raise BadCheckpoint(
            f"{path.name}: want lmk_face_idx, lmk_b_coords and landmark_indices of points on this FLAME: {error}"
        ) from error


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)


def _texture_coordinates(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(T, 2) float32 coordinates and (F, 3) int64 corners of a Wavefront .obj of triangles."""
    uv, corners = [], []
    for line in path.read_text("ascii", "replace").splitlines():
        kind, *words = line.split() or [""]
        if kind == "vt":
            uv.append([float(w) for w in words[:2]])
        elif kind == "f":
            corners.append([int(w.split("/")[1]) - 1 for w in words])
    if not corners or any(len(c) != 3 for c in corners):
        raise ValueError(f"{path.name}: want triangles with texture coordinates")
    return np.array(uv, np.float32), np.array(corners, np.int64)
