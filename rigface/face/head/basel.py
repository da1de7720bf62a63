"""Read the Basel model in the layout of Deep3DFaceRecon into a `Head`, and its networks' codes into coefficients.

Path: BFM_model_front.mat -> load_basel -> `head_model.Head`; 257 or 261 numbers of Deep3D or d3dfr -> params_of_codes.
Source: the file format of `BFM_model_front.mat` (Deng et al., "Accurate 3D Face Reconstruction with Weakly-Supervised
Learning", CVPRW 2019): 80 shape, 64 expression and 80 texture directions, decimetres, colours as a screen shows them.
The light is Ramamoorthi and Hanrahan's nine harmonics in another order and with other signs than in `lighting.py`.

Shape suffixes: N faces, V vertices.
"""

from __future__ import annotations

from math import pi, sqrt
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rigface.assets import fingerprint
from rigface.errors import BadCheckpoint, MissingAsset
from rigface.face.geometry.rotation import to_axis_angle, to_matrix
from rigface.face.head.head_model import Head
from rigface.types import FaceParams, HeadSpec

FILE = "BFM_model_front.mat"
SIZES = {"identity": 80, "expression": 64, "texture": 80, "angles": 3, "light": 27, "shift": 3}  # in this order
METRES = 0.1  # the file's lengths are decimetres
DISTANCE = 10.0  # decimetres from the camera to the model's origin
FOCAL = 1015 / 112  # of the camera, in halves of the picture's side
_AMBIENT = 0.8  # added to the first harmonic of every light
# Factor and place in `lighting.py`'s order of each of the model's nine harmonics, over that place's factor there.
_BANDS = (pi * sqrt(1 / (4 * pi)), 2 * pi / sqrt(3) * sqrt(3 / (4 * pi)), 2 * pi / sqrt(8) * 3 * sqrt(5 / (12 * pi)))
_SQUARE = _BANDS[2] / (pi / 4) / sqrt(15 / (4 * pi))
_LINEAR = _BANDS[1] / (2 * pi / 3) / sqrt(3 / (4 * pi))
_HARMONICS = (
    (0, _BANDS[0] / sqrt(1 / (4 * pi))),
    (2, -_LINEAR),
    (3, _LINEAR),
    (1, -_LINEAR),
    (4, _SQUARE),
    (6, -_SQUARE),
    (8, _BANDS[2] / (2 * sqrt(3)) / (pi / 4 * sqrt(5 / (16 * pi)))),
    (5, -_SQUARE),
    (7, _BANDS[2] / 2 / (pi / 4 * sqrt(15 / (16 * pi)))),
)
_SHAPES = {
    "meanshape": ("3V",),
    "idBase": ("3V", 80),
    "exBase": ("3V", 64),
    "meantex": ("3V",),
    "texBase": ("3V", 80),
    "keypoints": (68,),
}


def load_basel(path: str | PathLike[str]) -> Head:
    """The Basel model as a head in metres with 68 landmarks and an albedo per vertex; one joint, at the origin.

    `path` is `BFM_model_front.mat` or its folder. MissingAsset if it is not there, BadCheckpoint if it is damaged or
    another file.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise MissingAsset(f"{path} is not there; it is made from the Basel Face Model 2009 of faces.dmi.unibas.ch")
    arrays = _arrays(path)
    count = arrays["meanshape"].size // 3

    def per_vertex(name: str, unit: float) -> np.ndarray:
        return np.asarray(arrays[name].reshape(count, 3, -1) * unit, np.float32)

    mean = per_vertex("meanshape", METRES)[..., 0]
    return Head.from_arrays(
        HeadSpec(
            "basel",
            f"sha256:{fingerprint(path)}",
            shape=80,
            expression=64,
            albedo=80,
            colours="display",
            licence="Basel Face Model 2009: non-commercial research, registration at the University of Basel",
        ),
        landmarks=arrays["keypoints"].astype(np.int64).ravel() - 1,
        template=mean - mean.mean(0),
        shape_basis=per_vertex("idBase", METRES),
        expression_basis=per_vertex("exBase", METRES),
        faces=arrays["tri"].astype(np.int64) - 1,
        albedo_mean=per_vertex("meantex", 1 / 255)[..., 0],
        albedo_basis=per_vertex("texBase", 1 / 255),
    )


def params_of_codes(codes: Tensor) -> FaceParams:
    """Coefficients of the Basel head from a network's numbers (N, 257) of Deep3D or (N, 261) of d3dfr, torch.

    The camera of the result is weak perspective: the network's, at the depth of the head's origin. The other numbers
    are exact.
    """
    if codes.ndim != 2 or codes.shape[1] not in (257, 261):
        raise ValueError(f"codes: want (N, 257) of Deep3D or (N, 261) of d3dfr, got {tuple(codes.shape)}")
    parts = dict(zip(SIZES, torch.split(codes[:, :257], list(SIZES.values()), 1)))
    x, y, z = (to_matrix(parts["angles"][:, i : i + 1] * torch.eye(3).to(codes)[i]) for i in range(3))
    harmonics = torch.unflatten(parts["light"], 1, (3, 9)).mT + _AMBIENT * torch.eye(9).to(codes)[:, :1]
    light = torch.zeros_like(harmonics)
    for k, (place, factor) in enumerate(_HARMONICS):
        light[:, place] = factor * harmonics[:, k]
    scale = FOCAL / (DISTANCE - parts["shift"][:, 2:]) / METRES
    rotation = to_axis_angle(z @ y @ x)
    return FaceParams(
        shape=parts["identity"],
        expression=parts["expression"],
        head_rotation=rotation,
        jaw_rotation=torch.zeros_like(rotation),
        camera=torch.cat([scale, parts["shift"][:, :2] * METRES], 1),
        albedo=parts["texture"],
        light=light,
        bfm_expression=parts["expression"],
    )


def project_perspective(vertices: Tensor, shift: Tensor) -> Tensor:
    """(N, V, 2) crop unit of posed vertices (N, V, 3) metres, by the camera that the networks were trained with.

    `shift` (N, 3) are the network's last numbers, decimetres.
    """
    x, y, z = (vertices / METRES + shift[:, None]).unbind(-1)
    return FOCAL * torch.stack([x, y], -1) / (DISTANCE - z)[..., None]


def _arrays(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        arrays: dict[str, Any] = loadmat(path, variable_names=[*_SHAPES, "tri"])
        if missing := sorted({*_SHAPES, "tri"} - set(arrays)):
            raise ValueError(f"it lacks {', '.join(missing)}")
        count = arrays["meanshape"].size
        for name, shape in _SHAPES.items():
            want = tuple(count if n == "3V" else n for n in shape)
            got = arrays[name].shape if len(want) == 2 else (arrays[name].size,)
            if got != want or arrays[name].dtype.kind not in "fiu":
                raise ValueError(f"{name} has the shape {arrays[name].shape}")
    except Exception as error:  # scipy's reader raises errors of any kind on a damaged file
        raise BadCheckpoint(
            f"{path.name}: want {', '.join([*_SHAPES, 'tri'])} of the Basel model with 80 shape, 64 expression and 80 "
            f"texture directions: {error}; make it again with Deep3DFaceRecon's own script"
        ) from error
    return arrays
