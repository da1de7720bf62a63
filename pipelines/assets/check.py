"""`rigface assets list` and `check`: what is on this machine, what a profile lacks, and how to get it.

Path: `rigface.assets.ASSETS`, `FaceProfile` -> statuses -> tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.assets.recognition import look_at
from rigface.assets import ASSETS, find
from rigface.errors import MissingAsset, PlanError
from rigface.profile import PROFILES, FaceProfile

_BESIDE_FLAME = ("landmark_embedding.npy", "head_template.obj")  # without them the model cannot be fitted or drawn
NEEDS: dict[str, dict[str, tuple[str, ...]]] = {  # value of a field of `FaceProfile` -> assets
    "reconstructor": {
        "deca": ("flame", "deca"),
        "deca-rigface": ("flame", "deca"),
        "emoca": ("flame", "emoca"),
        "smirk": ("flame", "smirk"),
    },
    "head": {"flame": ("flame",), "basel": ("basel",)},
    "texture": {"flame": ("flame_texture",), "basel": ("flame_texture",)},
    "expression_codes": {"d3dfr": ("d3dfr", "basel"), "deep3d": ("deep3d", "basel_landmarks", "basel")},
    "parser": {"selfie": ("selfie_segmentation",), "bisenet": ("bisenet",), "segformer": ("segformer_face_parsing",)},
    "detector": {"mediapipe": ("face_landmarker",), "insightface": ("face_landmarker", "insightface_pack")},
}
_MODELS = {"own": ("mini",), "rigface": ("rigface", "sd15")}  # weights of the model that has a profile


@dataclass(frozen=True)
class Status:
    """An asset on this machine."""

    name: str
    path: Path | None  # None: it is not here
    problem: str = ""  # what is wrong or missing, and what to do; "" if nothing


def statuses(names: Iterable[str], folder: str | None = None) -> list[Status]:
    """The state of assets: found and what their name says, found and damaged, or missing.

    Args:
        folder: an assets folder to search first.
    """
    return [_status(name, folder) for name in names]


def needs(profile: str) -> list[str]:
    """Names of the assets that a profile and the model of its name need.

    Raises:
        PlanError: there is no such profile.
    """
    if profile not in PROFILES:
        raise PlanError(f"there is no profile {profile!r}; want one of {', '.join(PROFILES)}")
    return list(dict.fromkeys((*_MODELS.get(profile, ()), *_of_fields(PROFILES[profile]))))


def _of_fields(profile: FaceProfile) -> list[str]:
    return [name for field, values in NEEDS.items() for name in values.get(getattr(profile, field), ())]


def _status(name: str, folder: str | None) -> Status:
    asset = ASSETS[name]
    try:
        path = find(name, folder)
    except MissingAsset:
        return Status(name, None, f"missing. {asset.how[0].upper()}{asset.how[1:]}")
    inside = sorted(p for p in path.glob("*") if p.is_file()) if path.is_dir() else []
    problems = [f"{place.name}: {reason}" for place in (path, *inside) if (reason := look_at(place, name))]
    if name == "flame":
        problems += [
            f"{beside} is not beside it; {asset.how}" for beside in _BESIDE_FLAME if not (path / beside).is_file()
        ]
    return Status(name, path, "; ".join(problems))
