"""Load LoRA adapters beside a model and switch between them.

Path: folder in peft's layout (adapter_config.json, adapter_model.safetensors), or a LoRA file of Stable Diffusion
(`lora_files.py`) -> `Adapters.use` -> the same model, changed.
"""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

from peft import LoraConfig, PeftModel, get_peft_model

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.model.lora_files import DIFFUSERS_FILE, write_adapter
from rigface.model.recipes.protocol import ConditionedModel

_FILES = ("adapter_config.json", "adapter_model.safetensors")


class Adapters:
    """The adapters of a model, by place; each is read once, and at most one is active."""

    def __init__(self, model: ConditionedModel) -> None:
        self._model = model
        self._adapted: PeftModel | None = None
        self._names: dict[Path, str] = {}
        self._active = False

    def use(self, place: Path | None) -> None:
        """Switch to an adapter, a folder (peft's or diffusers') or a LoRA file; None: to the model itself.

        Not while another thread samples.

        MissingAsset if the place holds no adapter, BadCheckpoint if it belongs to another model or is no LoRA.
        """
        if place is not None and not (place / _FILES[0]).is_file() and (place / DIFFUSERS_FILE).is_file():
            place /= DIFFUSERS_FILE  # a folder of diffusers
        if place is None:
            if self._adapted is not None:
                self._adapted.disable_adapter_layers()
        else:
            name = self._names.get(place) or self._read(place)
            assert self._adapted is not None
            self._adapted.enable_adapter_layers()
            self._adapted.set_adapter(name)
            self._model.requires_grad_(False)  # peft makes an active adapter trainable
        self._active = place is not None

    def _read(self, place: Path) -> str:
        if not place.is_file():
            return self._read_folder(place, place)
        with TemporaryDirectory() as folder:
            write_adapter(place, Path(folder))
            return self._read_folder(Path(folder), place)

    def _read_folder(self, folder: Path, place: Path) -> str:
        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise MissingAsset(f"{place} is no adapter: it lacks {', '.join(missing)}")
        name = f"adapter{len(self._names)}"
        try:
            if self._adapted is None:
                self._adapted = get_peft_model(self._model, LoraConfig.from_pretrained(str(folder)), name)
            self._adapted.load_adapter(str(folder), name)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            if self._adapted is not None and not self._names:
                _unloaded(self._adapted)
                self._adapted = None
            elif self._adapted is not None and name in self._adapted.peft_config:
                self._adapted.delete_adapter(name)
            raise BadCheckpoint(f"{place}: the adapter does not fit the model: {error}") from error
        self._names[place] = name
        return name

    def merged(self) -> ConditionedModel:
        """The model with the active adapter in its weights, under stock names; a copy if adapters were loaded."""
        if self._adapted is None:
            return self._model
        adapted = copy.deepcopy(self._adapted)
        return adapted.merge_and_unload() if self._active else _unloaded(adapted)


def _unloaded(adapted: PeftModel) -> ConditionedModel:
    """The model as it was. peft alone would leave an adapter's whole modules, such as the class embedding, in it."""
    for name in list(adapted.peft_config):
        adapted.delete_adapter(name)
    result: ConditionedModel = adapted.unload()
    return result
