"""Recognise official files and folders by their names, and by the keys and shapes in them.

Path: folders -> search -> `Found` -> `adoption.py`; `check.py` looks at adopted files again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from pipelines.assets.outline import Outline, Shape, outline
from rigface.assets import ASSETS
from rigface.errors import BadCheckpoint

Want = dict[str, tuple[int | None, ...]]

MAX_FILES = 200_000  # in one search; a folder with more is not one of downloads


@dataclass(frozen=True)
class Found:
    """A file or folder that is recognised, or has an official name and is refused."""

    source: Path
    asset: str = ""  # key of `ASSETS`
    place: str = ""  # path below the assets folder
    note: str = ""
    reason: str = ""  # of a refusal: what was wanted, what came, what to do


@dataclass(frozen=True)
class _Kind:
    asset: str
    place: str  # below the assets folder; ends with "/" if the file keeps its name
    want: Want  # arrays that it must have, with their shapes; None: any size
    names: tuple[str, ...] = ()  # the only file names it has; (): any, as the arrays tell it apart
    holds_objects: bool = False  # a checkpoint of training, in which other packages keep their settings

    @property
    def official(self) -> tuple[str, ...]:
        return self.names or (Path(self.place).name,)


_KINDS = (
    _Kind(
        "flame",
        "flame/",
        {"v_template": (None, 3), "shapedirs": (None, 3, 400), "posedirs": (None, 3, 36), "weights": (None, 5)},
        names=ASSETS["flame"].holds,
    ),
    _Kind("flame", "flame/landmark_embedding.npy", {"static_lmk_faces_idx": (51,), "dynamic_lmk_faces_idx": (79, 17)}),
    _Kind("flame", "flame/head_template.obj", {"v": (None,), "vt": (None,)}, names=("head_template.obj",)),
    _Kind(
        "flame",
        "flame/mediapipe_landmark_embedding.npz",
        {"lmk_face_idx": (105,), "lmk_b_coords": (105, 3), "landmark_indices": (105,)},
    ),
    _Kind("flame", "flame/", {"": (None, 3)}, names=("l_eyelid.npy", "r_eyelid.npy")),
    _Kind("flame_texture", "flame/FLAME_texture.npz", {"mean": (512, 512, 3), "tex_dir": (512, 512, 3, 200)}),
    _Kind("flame_texture", "flame/FLAME_albedo_from_BFM.npz", {"MU": (786432,), "PC": (786432, 199)}),
    _Kind(
        "deca",
        "deca/deca_model.tar",
        {"E_flame.encoder.conv1.weight": (64, 3, 7, 7), "E_flame.layers.2.weight": (236, 1024)},
    ),
    _Kind(
        "emoca",
        "emoca/",
        {
            "state_dict.deca.E_flame.layers.2.weight": (236, 1024),
            "state_dict.deca.E_expression.layers.2.weight": (None, 1024),
        },
        holds_objects=True,
    ),
    _Kind(
        "smirk",
        "smirk/SMIRK_em1.pt",
        {
            "smirk_encoder.shape_encoder.shape_layers.0.weight": (300, 960),
            "smirk_encoder.expression_encoder.expression_layers.0.weight": (55, 960),
        },
    ),
    _Kind(
        "d3dfr",
        "d3dfr/d3dfr_res50_nofc.pth",
        {"fianl_layers.1.weight": (64, 2048, 1, 1), "fianl_layers.7.weight": (4, 2048, 1, 1)},
    ),
    _Kind("deep3d", "deep3d/epoch_20.pth", {"net_recon.final_layers.1.weight": (64, 2048, 1, 1)}),
    _Kind(
        "bisenet",
        "bisenet/79999_iter.pth",
        {"cp.resnet.conv1.weight": (64, 3, 7, 7), "conv_out.conv_out.weight": (19, 256, 1, 1)},
    ),
    _Kind(
        "basel",
        "basel/BFM_model_front.mat",
        {"meanshape": (1, None), "idBase": (None, 80), "exBase": (None, 64), "texBase": (None, 80)},
    ),
    _Kind("basel_landmarks", "basel/similarity_Lm3D_all.mat", {"lm": (68, 3)}),
    _Kind(
        "sd15",
        "sd15.safetensors",
        {
            "model.diffusion_model.input_blocks.0.0.weight": (None, 4, 3, 3),
            "first_stage_model.decoder.conv_in.weight": (None, 4, 3, 3),
            "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, None),
        },
    ),
)
_NETWORKS: dict[str, Want] = {
    "unet_id": {"conv_in.weight": (None, 4, 3, 3)},
    "unet_denoise": {"conv_in.weight": (None, 12, 3, 3), "au_aug_mlp.weight": (None, 64)},
}
_PACK: dict[str, Shape] = {  # networks of an InsightFace pack, and the last axis of each output
    "det_10g.onnx": (1, 1, 1, 4, 4, 4, 10, 10, 10),
    "scrfd_10g_bnkps.onnx": (1, 1, 1, 4, 4, 4, 10, 10, 10),
    "2d106det.onnx": (212,),
    "w600k_r50.onnx": (512,),
    "glintr100.onnx": (512,),
}


def search(folder: Path) -> Iterator[Found]:
    """What is recognised in a folder and all folders below it, or in one file; links to folders are not followed.

    Raises:
        BadCheckpoint: there is no such folder, or it has more than 200,000 files.
    """
    if folder.is_file():
        yield from _of_file(folder)
        return
    if not folder.is_dir():
        raise BadCheckpoint(f"{folder} is neither a folder nor a file")
    seen = 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        whole = list(_of_folder(Path(root), set(folders), set(files)))
        yield from whole
        sources = {found.source for found in whole}
        if Path(root) in sources:
            folders.clear()
            continue
        folders[:] = [name for name in folders if Path(root, name) not in sources]
        for name in sorted(files):
            seen += 1
            if seen > MAX_FILES:
                raise BadCheckpoint(f"{folder} has more than {MAX_FILES:,} files; name the folders of the downloads")
            yield from _of_file(Path(root, name))


def look_at(path: Path, asset: str) -> str:
    """What is wrong with a file or folder that is in place for an asset, as a sentence; "" if nothing is."""
    if path.is_dir():
        networks = {"rigface": _NETWORKS, "sd15": {"unet": _NETWORKS["unet_id"]}}.get(asset, {})
        problems = (_unet_misfit(path / name, want) for name, want in networks.items())
        return "; ".join(problem for problem in problems if problem)
    if path.name not in _PACK and not any(k.asset == asset and path.name in k.official for k in _KINDS):
        return ""
    found = next(iter(_of_file(path)), None)
    if found is None:
        return "it cannot be read"
    return found.reason or ("" if found.asset == asset else f"it holds {found.asset}")


def _of_folder(root: Path, folders: set[str], files: set[str]) -> Iterator[Found]:
    if {"unet_id", "unet_denoise"} <= folders:
        for name, want in _NETWORKS.items():
            reason = _unet_misfit(root / name, want)
            yield Found(root / name, "rigface", f"rigface/{name}", reason=reason)
    if {"unet", "vae"} <= folders:
        reason = _unet_misfit(root / "unet", _NETWORKS["unet_id"])
        yield Found(root, "sd15", "sd15", reason=reason)
    elif {"vocab.json", "merges.txt"} <= files and root.name == "tokenizer":
        yield Found(root, "sd15", "sd15/tokenizer", "for prompts with a single-file Stable Diffusion")
    if "config.json" in files and _json(root / "config.json").get("model_type") == "segformer":
        yield Found(root, "segformer_face_parsing", "segformer_face_parsing")


def _unet_misfit(folder: Path, want: Want) -> str:
    """Why a folder is not a UNet with these arrays; "" if it is one."""
    config = next(iter([*folder.glob("config.json"), *folder.glob("checkpoint-*/config.json")]), None)
    if config is None:
        return f"want a UNet's config.json in {folder.name}/, there is none; copy the whole folder"
    weights = [p for suffix in ("safetensors", "bin") for p in config.parent.glob(f"diffusion_pytorch_model*.{suffix}")]
    if not weights:
        return f"want diffusion_pytorch_model.safetensors in {folder.name}/, it is not there; copy the whole folder"
    try:
        shapes = {name: shape for file in weights if (o := outline(file)) for name, shape in o.shapes.items()}
    except BadCheckpoint as error:
        return f"{error}; download it again"
    misfit = _misfit(shapes, want)
    return f"{misfit}; {folder.name}/ is another model" if misfit else ""


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _of_file(path: Path) -> Iterator[Found]:
    if path.name in _PACK:
        yield Found(path, "insightface_pack", f"insightface/{path.name}", reason=_pack_misfit(path))
        return
    named = [kind for kind in _KINDS if path.name in kind.official]
    try:
        content = outline(path)
    except BadCheckpoint as error:
        if named:
            yield Found(path, reason=f"{error}; download it again")
        return
    if content is None:
        return
    shapes = _unwrapped(content)
    kind = next((k for k in _KINDS if path.name in (k.names or (path.name,)) and not _misfit(shapes, k.want)), None)
    if kind is None:
        if named:
            misfit = _misfit(shapes, named[0].want)
            yield Found(path, reason=f"{misfit}; it is not what its name says, download it again")
        return
    if content.foreign and not kind.holds_objects:
        names = ", ".join(content.foreign[:3])
        yield Found(path, reason=f"want arrays alone, it asks for {names}; nothing was executed, do not use it")
        return
    place = kind.place + path.name if kind.place.endswith("/") else kind.place
    note = f"named {path.name}" if path.name != Path(place).name else ""
    yield Found(path, kind.asset, place, note)


def _pack_misfit(path: Path) -> str:
    """Why a file is not the network of an InsightFace pack that its name says; "" if it is."""
    want = _PACK[path.name]
    try:
        network = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, of any kind
        return f"it is damaged, or no ONNX network ({str(error).splitlines()[0]}); download it again"
    came = tuple(output.shape[-1] for output in network.get_outputs())
    if came == want:
        return ""
    return f"want outputs of {want} numbers, got {came}; it is not what its name says, download the pack again"


def _unwrapped(content: Outline) -> dict[str, Shape]:
    """Shapes without the `module.` that training on several devices puts into names."""
    return {name.replace("module.", "", 1): shape for name, shape in content.shapes.items()}


def _misfit(shapes: dict[str, Shape], want: Want) -> str:
    """The first array that a file lacks, as words; "" if it has all of them."""
    for name, shape in want.items():
        came = shapes.get(name)
        fits = came is not None and len(came) == len(shape) and all(w in (None, c) for w, c in zip(shape, came))
        if not fits:
            size = " x ".join("any" if n is None else str(n) for n in shape)
            have = "x".join(map(str, came)) if came is not None else "it is not there"
            return f"want {name or 'an array'} of {size}, {'got ' if came is not None else ''}{have}"
    return ""
