"""The head of a name or of a spec: open, FLAME or Basel.

Path: `--head`, a dataset's or a checkpoint's HeadSpec -> load_head -> `Head`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from rigface.assets import find, fingerprint
from rigface.errors import MissingAsset
from rigface.face.head import basel, flame
from rigface.face.head.head_model import Head
from rigface.face.head.open_head import OpenHead
from rigface.face.head.overlay import with_open_albedo
from rigface.profile import FaceProfile
from rigface.types import HeadSpec

NAMES = ("open", "flame", "basel")


def load_head(
    head: HeadSpec | str = "open", folder: str | Path | None = None, shape: int = 100, expression: int = 50
) -> Head:
    """A head model by name, for FLAME with so many coefficients (those of DECA if left out), or the one of a spec.

    FLAME without a texture of its own gets the open head's albedo. Loaded once per process; do not write into it.

    Args:
        folder: an assets folder to search first, the model's own, or for FLAME its .pkl file.

    Raises:
        MissingAsset: its files are not on this machine, or they are of another model than the spec's.
        ValueError: there is no such head.
    """
    spec = HeadSpec(head, "", shape, expression, 0) if isinstance(head, str) else head
    if spec.name == "open":
        loaded = _open()
    elif spec.name == "basel":
        loaded = _basel(find("basel", folder))
    elif spec.name == "flame":
        path = Path(folder) if folder is not None and flame.models_in(folder) else find("flame", folder)
        of_hash = [p for p in flame.models_in(path) if f"sha256:{fingerprint(p)}" == spec.version]
        kind = spec.albedo_source.partition(":")[0]
        loaded = _flame(of_hash[0] if of_hash else path, spec.shape, spec.expression, kind)
    else:
        raise ValueError(f"head: want one of {', '.join(NAMES)}, got {spec.name!r}")
    if isinstance(head, HeadSpec) and (misfit := head.misfit(loaded.spec)):
        raise MissingAsset(misfit)
    return loaded


def profile_head(profile: FaceProfile) -> Head:
    """The head of a profile, with the profile's texture.

    Raises:
        MissingAsset: its files, or the texture's, are not on this machine.
    """
    if profile.head != "flame" or profile.texture == "none":
        return load_head(profile.head)
    return _flame(find("flame"), 100, 50, profile.texture)


@lru_cache(maxsize=1)
def _open() -> Head:
    return OpenHead.load().head()


@lru_cache(maxsize=1)
def _basel(path: Path) -> Head:
    return basel.load_basel(path)


@lru_cache(maxsize=2)
def _flame(path: Path, shape: int, expression: int, source: str) -> Head:
    kinds: dict[str, flame.Texture] = {"open": "none", "flame": "flame", "basel": "basel"}
    texture = kinds.get(source, "any")
    head = flame.load_flame(path, shape, expression, texture=texture)
    return head if head.spec.albedo else with_open_albedo(head)
