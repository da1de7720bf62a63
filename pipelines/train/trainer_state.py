"""State of a training run: model, optimizer, weight average and step; saved and restored whole."""

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from pipelines.train import model_setup, optimizer
from pipelines.train.backend import Backend
from pipelines.train.config import TrainConfig
from rigface.errors import PlanError
from rigface.examples import ExampleSpec
from rigface.model import number_format
from rigface.model.ema import Average
from rigface.model.recipes.protocol import AdapterRecipe, Checkpoint, Recipe, recipe_of


class TrainerState:
    """A model in training, with all that a checkpoint holds."""

    def __init__(self, config: TrainConfig, spec: ExampleSpec, backend: Backend, device: torch.device) -> None:
        self.config, self.spec, self.backend, self.device = config, spec, backend, device
        self.recipe: Recipe = recipe_of(config.recipe)
        self.options = model_setup.options(config, spec)
        self.loaded: Checkpoint = self.recipe.build(model_setup.load(config, spec), self.options)
        self.loaded.config = replace(self.loaded.config, recipe=config.recipe)
        if config.output_scale != 1 and self.loaded.config.process.kind != "bridge":
            raise PlanError(
                f"output_scale is for a bridge from the preview; this model is {self.loaded.config.process.kind!r}"
            )
        if config.output_scale != 1 and isinstance(self.recipe, AdapterRecipe):
            raise PlanError(
                f"output_scale changes a layer that the recipe {config.recipe!r} does not train; leave it 1"
            )
        self.inner = self.loaded.model
        self.trained = sum(p.numel() for p in self.inner.parameters() if p.requires_grad)
        if config.gradient_checkpointing:
            self.inner.enable_gradient_checkpointing()
        self.inner.train().to(device)
        self.loaded.vae.to(device)  # type: ignore[arg-type]
        model_setup.arrange(self.inner, config)
        self.wrapped = model_setup.wrap(self.inner, config, backend, device)
        learning = {name: p for name, p in self.inner.named_parameters() if p.requires_grad}
        groups = optimizer.groups_of(config, learning)
        self.rate_scales = [group.scale for group in groups]
        self.optimizer = optimizer.build(config, groups, device)
        self.average = Average(self.inner, config.ema_decay)
        self.step = 0
        _quiet()
        # Workers agree on a checkpoint beside the training, so in a group of its own, and by gloo for any device.
        distributed = torch.distributed.is_initialized()
        self.group: Any = torch.distributed.new_group(backend="gloo") if distributed else None
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="export")
        self._published: Future[None] | None = None

    def memory_mb(self) -> float:
        """Peak of the GPU's memory; on a CPU what is computed: weights, gradients, optimizer and average."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        weights = sum(p.numel() * p.element_size() for p in self.inner.parameters())
        return (weights + 16 * self.trained) / 2**20  # four float32 numbers per trained one

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint, sharded like the model."""
        model, moments = get_state_dict(self.inner, self.optimizer)
        return {"model": model, "optimizer": moments, "average": self.average.state(), "step": self.step}

    def save(self, folder: Path) -> Future[Any]:
        """Begin to fill a folder with a copy of the present state; every worker writes its share."""
        written: Future[Any] = dcp.async_save(  # type: ignore[assignment]  # without a stager of its own
            self.state_dict(), checkpoint_id=folder, process_group=self.group, no_dist=self.backend.world == 1
        )
        return written

    def load(self, folder: Path) -> None:
        """The inverse of `save`, whatever the number of workers and the sharding were then."""
        state = self.state_dict()  # allocates the state of a fresh optimizer
        dcp.load(state, checkpoint_id=folder, no_dist=self.backend.world == 1)
        set_state_dict(self.inner, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.average.load(state["average"])
        self.step = int(state["step"])

    def in_background(self, publish: Callable[[], None]) -> None:
        """Publish beside the training, one after the other."""
        self.settle()
        self._published = self._publisher.submit(publish)

    def settle(self) -> None:
        """Wait until all is published; raises its error."""
        if self._published is not None:
            self._published.result()
            self._published = None

    def averaged(self) -> dict[str, Tensor]:
        """A copy of the whole averaged model on the first worker's CPU, under its own names. Every worker calls it."""
        with self.average.swapped():
            whole: Any = get_model_state_dict(
                self.inner, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
            )
            if self.device.type == "cpu":  # where offloading gives the live weights, which are swapped back
                whole = {name: tensor.clone() for name, tensor in whole.items()}
        return {name: tensor.contiguous() for name, tensor in whole.items()}  # as files want them

    def autocast(self) -> AbstractContextManager:
        """The config's number format; with FSDP it is part of the sharding."""
        if self.config.sharding != "ddp":
            return nullcontext()
        return number_format.autocast(number_format.autocast_dtype(self.config.number_format, self.device), self.device)


def _quiet() -> None:
    """Silence torch's warning about a single process, and its 14 log lines per checkpoint, in all threads."""
    logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
