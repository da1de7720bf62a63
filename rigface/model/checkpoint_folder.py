"""Places of models by name, found without importing any network.

Path: `--checkpoint NAME` -> `folder_of` -> `checkpoint.start`, `refiner.load_refiner`.
"""

import json
from pathlib import Path
from typing import Any

from rigface import assets
from rigface.errors import BadCheckpoint, MissingAsset
from rigface.model.hub import repository
from rigface.storage.model_cache import fetched
from rigface.storage.versions import newest_version

SD15 = "sd15"  # Stable Diffusion 1.5 by name
CONFIG = "config.json"
REFINER_FORMAT = "rigface-refiner"  # in the config.json of a network that corrects previews


def folder_of(name: str) -> Path:
    """Local folder of a checkpoint name: `refiner`, `mini`, `rigface`, `sd15` from `rigface.assets`, a folder on S3
    copied once, a hub id (`hub/repository.py`), a folder's newest version. Stable Diffusion may be a file.

    Raises:
        MissingAsset: it is not on this machine (a name, a hub id), or there is no such folder of weights on S3.
        PlanError, StorageGone: see `model_cache.fetched`.
    """
    if name in ("refiner", "mini", "rigface"):
        return assets.find(name)
    if name == SD15:
        return assets.find(name, ".")  # a folder or file of this name here comes first
    place = name.removeprefix(f"{SD15}:")
    if repository.is_id(place):
        return repository.found(place)
    return fetched(place) if place.startswith("s3://") else Path(newest_version(place))


def is_sd15(name: str) -> bool:
    """True if the name means Stable Diffusion 1.5, which has seen no faces: `sd15` (adopted), `sd15:FOLDER`."""
    return name == SD15 or name.startswith(f"{SD15}:")


def refiner_folder(name: str) -> Path | None:
    """The folder of a checkpoint that is a refiner, by its name (see `folder_of`); None for any other model.

    MissingAsset if nothing of this name is on this machine.
    """
    if name == "tiny" or is_sd15(name):
        return None
    folder = folder_of(name)
    try:
        is_refiner = json.loads((folder / CONFIG).read_bytes()).get("format") == REFINER_FORMAT
    except (OSError, ValueError, AttributeError):
        return None
    return folder if is_refiner else None


def read_json(file: Path) -> dict[str, Any]:
    """One JSON object; MissingAsset if it is not there, BadCheckpoint if it is no JSON."""
    try:
        result: dict[str, Any] = json.loads(file.read_text())
        return result
    except FileNotFoundError as error:
        raise MissingAsset(f"{file} is not there") from error
    except ValueError as error:
        raise BadCheckpoint(f"{file} is no JSON: {error}") from error
