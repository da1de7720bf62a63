"""Loaded checkpoints of a diffusion worker, the least recently used dropped first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rigface.edits import PREVIEW
from rigface.model.checkpoint_folder import folder_of, read_json, refiner_folder
from rigface.model.model_config import ModelConfig
from rigface.profile import ConditionSpec
from serve.messages import SampledImage, SampleRequest, Step
from serve.problems import ApiError
from serve.protocols import REFINER
from serve.schemas import ModelInfo

if TYPE_CHECKING:
    from rigface.model.pipeline import RigFacePipeline
    from rigface.model.sampling import SamplingBatch, SamplingState

LoadPipeline = Callable[[str], "RigFacePipeline"]
"""Checkpoint folder or name -> pipeline."""

ABOUT_PREVIEW = "The instant preview warps and relights the photograph itself; no network is used."
ABOUT_REFINER = "A small network that corrects the instant preview: lips, teeth, lids, and what was hidden."
NO_MODEL = "No trained model is loaded; start the service with --checkpoint FOLDER to add one."


@dataclass(eq=False)
class QueuedRequest:
    """A request in the queue or the batch of a diffusion worker."""

    request: SampleRequest
    deadline: float
    emit: Callable[[Step | SampledImage | BaseException], None]  # to its caller; an exception ends the request
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float = 0.0
    abandoned: bool = False  # its caller has left
    batch_rows: int = 0  # the largest number of rows in one of its steps


@dataclass(eq=False)
class LoadedModel:
    """A pipeline, its batch, and the requests in the batch."""

    pipeline: RigFacePipeline
    batch: SamplingBatch
    active: list[tuple[QueuedRequest, SamplingState]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(state.rows for _, state in self.active)


class ModelPool:
    """Checkpoints by name, the first is the default. `get` and `loaded` belong to the thread that samples.

    At most `max_loaded` are in memory; a model with active requests is never dropped.
    """

    def __init__(self, checkpoints: Mapping[str, str], load_pipeline: LoadPipeline, max_loaded: int) -> None:
        self._checkpoints, self._load_pipeline, self._max_loaded = dict(checkpoints), load_pipeline, max_loaded
        self._refiners = {name for name, place in checkpoints.items() if refiner_folder(place) is not None}
        self._configs: dict[str, ModelConfig] = {}
        self.loaded: OrderedDict[str, LoadedModel] = OrderedDict()

    @property
    def default(self) -> str | None:
        """Name of the default model; None without any."""
        return next(iter(self._checkpoints), None)

    @property
    def diffusion(self) -> list[str]:
        """Names of the models that sample."""
        return [name for name in self._checkpoints if name not in self._refiners]

    @property
    def is_idle(self) -> bool:
        """True if no request is active."""
        return not any(model.active for model in self.loaded.values())

    def check(self, name: str) -> None:
        """Refuse an unknown name by an ApiError."""
        if name not in self._checkpoints:
            raise ApiError("unknown-model", f"{name!r}; there are {', '.join([*self._checkpoints, PREVIEW])}")

    def get(self, name: str) -> LoadedModel:
        """The model, loaded if necessary; idle models beyond `max_loaded` are dropped."""
        if name in self.loaded:
            self.loaded.move_to_end(name)
            return self.loaded[name]
        pipeline = self._load_pipeline(self._checkpoints[name])
        self._configs[name] = pipeline.model_config
        model = self.loaded[name] = LoadedModel(pipeline, pipeline.sampling_batch())
        idle = [n for n, m in self.loaded.items() if not m.active and n != name]
        while len(self.loaded) > self._max_loaded and idle:
            del self.loaded[idle.pop(0)]
        return model

    def infos(self) -> list[ModelInfo]:
        """The models that an edit may name; the preview comes last, or alone."""
        infos = []
        for name in self._checkpoints:
            if name in self._refiners:
                default, about = name == self.default, ABOUT_REFINER
                infos.append(
                    ModelInfo(name=name, kind=REFINER, size=0, steps=1, default=default, loaded=True, about=about)
                )
                continue
            info = ModelInfo(
                name=name, kind="", size=0, steps=0, default=name == self.default, loaded=name in self.loaded
            )
            if (config := self._configs.get(name)) is not None:
                process = config.process
                info = info.model_copy(update={"kind": process.kind, "size": config.size, "steps": process.steps})
            infos.append(info)
        about = ABOUT_PREVIEW if infos else f"{NO_MODEL} {ABOUT_PREVIEW}"
        preview = ModelInfo(name=PREVIEW, kind=PREVIEW, size=0, steps=0, default=not infos, loaded=True, about=about)
        return [*infos, preview]

    def input_spec(self, name: str) -> ConditionSpec:
        """The conditions that a model takes; loads no weights. Blocks at the first call for a model."""
        config = self._configs.get(name)
        if config is None:
            config = self._configs[name] = self._read_config(name)
        return config.conditions

    def _read_config(self, name: str) -> ModelConfig:
        path = folder_of(self._checkpoints[name]) / "config.json"
        if path.is_file():
            return ModelConfig.from_json(read_json(path))
        return self._load_pipeline(self._checkpoints[name]).model_config
