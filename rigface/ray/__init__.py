"""Faces in Ray Data pipelines of your own: `Faces` for `Dataset.map_batches`, `read_faces` for datasets.

The one room of the library that knows Ray, and only `read_faces` imports it: the stage is a callable of tables. The
names below are imported when they are used, as workers that read need no networks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rigface.ray.dataset import read_faces
    from rigface.ray.faces import FaceModels, Faces

__all__ = ["FaceModels", "Faces", "read_faces"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"rigface.ray has no {name}")
    return getattr(import_module(f"rigface.ray.{'dataset' if name == 'read_faces' else 'faces'}"), name)
