"""Examples of each step as latents on the device, with embeddings of their captions, read ahead.

Path: `BatchSampler` -> windows -> `read_ahead` or `read_with_ray` -> `Batches` -> loop.py.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.examples.example_index import ExampleIndex
from pipelines.train import batch_sampler, model_setup
from pipelines.train.augmentation import augmented
from pipelines.train.config import TrainConfig
from pipelines.train.ray_reader import read_with_ray
from pipelines.train.subject import Subject
from rigface.errors import PlanError
from rigface.examples import (
    CAPTION,
    IDENTITY,
    PICTURES,
    REGIONS,
    LatentSpec,
    examples_of,
    in_cells,
    numbers_of,
    regions_of,
)
from rigface.model.checkpoint import Checkpoint
from rigface.model.latents import LatentConditions, LatentExample, decoded_hint, encode_example
from rigface.model.text import TextEncoder
from rigface.types import REGION_LABELS

if TYPE_CHECKING:
    from pipelines.train.trainer_state import TrainerState

NO_REGIONS = (
    "region_weights need examples with regions, and these are of an earlier version: make them anew with `rigface pair`"
    " and `rigface encode`"
)
CACHED_CAPTIONS = 4096  # embeddings: in clips many frames share a caption


class Batches:
    """Steps' examples as latents on the device, and the seconds spent waiting for each."""

    def __init__(self, config: TrainConfig, index: ExampleIndex, state: TrainerState, micro_batches: list[int]) -> None:
        self._subject = Subject.of(state, index)
        rows = self._subject.rows if self._subject else index.rows("train")
        self._order = batch_sampler.BatchSampler(
            rows, config.batch, config.micro_batches, config.shuffle_window, config.seed, config.weights, index.datasets
        )
        self._latent = LatentSpec.of(index.schema)
        if self._latent is not None and config.augment:
            raise PlanError(
                f"{config.examples} holds latents, but augment needs pictures: give the folder that `pair` wrote, or "
                "--no-augment"
            )
        model_setup.check(state.loaded, state.spec, self._latent)
        columns = ["expression_code", *(f"{name}_latents" if self._latent else name for name in PICTURES)]
        if state.loaded.config.identity:
            columns.append(IDENTITY)
        self._weights = _weights(config)
        if self._weights is not None:
            columns.append(f"{REGIONS}_latents" if self._latent else REGIONS)
            if columns[-1] not in index.schema.names:
                raise PlanError(NO_REGIONS)
        self._caption_encoder = CaptionEncoder.of(state.loaded, index.schema, state.device)
        if self._caption_encoder is not None:
            columns.append(CAPTION)
        if self._subject is not None:
            columns.append("identity")
        windows = self._order.windows(micro_batches, state.step)
        if config.reader == "ray" and config.workers:
            self._windows = read_with_ray(windows, index.parts, columns)
        else:
            self._windows = batch_sampler.read_ahead(windows, batch_sampler.Reader(index.parts, columns))
        self._state, self._micro_batches = state, micro_batches

    def __iter__(self) -> Iterator[tuple[int, list[LatentExample], float]]:
        size = self._order.batch
        clock = time.perf_counter()
        for window, table in self._windows:
            for k in range(window.steps):
                first = k * len(self._micro_batches) * size
                step = window.first + k + 1
                examples = [
                    self._with_captions(table.slice(first + i * size, size), step, micro_batch)
                    for i, micro_batch in enumerate(self._micro_batches)
                ]
                yield step, examples, time.perf_counter() - clock
                clock = time.perf_counter()

    def _with_captions(self, table: pa.Table, step: int, micro_batch: int) -> LatentExample:
        """The example, with its captions if the model has a text encoder, or the prompts of who is on it."""
        example = self._example(table, step, micro_batch)
        if self._subject is not None:
            text = self._subject.texts(table["identity"].to_pylist())
        elif self._caption_encoder is not None:
            text = self._caption_encoder(table[CAPTION].to_pylist())
        else:
            return example
        return replace(example, conditions=replace(example.conditions, text=text))

    def _example(self, table: pa.Table, step: int, micro_batch: int) -> LatentExample:
        device, config = self._state.device, self._state.config
        if any(table[name].null_count for name in table.column_names if name.startswith(REGIONS)):
            raise PlanError(NO_REGIONS)
        if self._latent is None:
            example, regions = examples_of(table), regions_of(table) if self._weights is not None else None
            if config.augment:
                example, regions = augmented(example, (config.seed, step, micro_batch), regions)
            with torch.inference_mode():
                latents = encode_example(self._state.loaded.vae, example, self._state.loaded.model.reads_pixels)
            latents = latents.map(lambda t: t.half().float().clone())  # as precise as stored latents
            if regions is None:
                return latents
            return replace(latents, weights=self._weighted(in_cells(regions, *latents.target.shape[-2:])))
        shape = (self._latent.channels, self._latent.height, self._latent.width)
        names = (f"{name}_latents" for name in PICTURES)
        reference, background, render, target = (
            torch.from_numpy(numbers_of(table, n)).reshape(-1, *shape).to(device) for n in names
        )
        code = torch.from_numpy(numbers_of(table, "expression_code")).to(device)
        if IDENTITY in table.column_names:
            reference = torch.from_numpy(numbers_of(table, IDENTITY)).to(device)
        weights = None
        if self._weights is not None:
            cells = numbers_of(table, f"{REGIONS}_latents")
            weights = self._weighted(cells.reshape(-1, *shape[1:]))
        reads_pixels, vae = self._state.loaded.model.reads_pixels, self._state.loaded.vae
        hint = decoded_hint(vae, background, render) if reads_pixels else None
        conditions = LatentConditions(background, render, code, reference=reference, hint=hint)
        return LatentExample(conditions, target, weights)

    def _weighted(self, cells: np.ndarray) -> Tensor:
        """(B, 1, h, w) weights of cells (B, h, w) with numbers of regions, 1 on average over each example."""
        assert self._weights is not None
        weights = self._weights[torch.from_numpy(cells).long()][:, None]
        return (weights / weights.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)).to(self._state.device)


def _weights(config: TrainConfig) -> Tensor | None:
    """(5,) weights by number of region; None if all are alike."""
    weights = asdict(config.region_weights)
    return torch.tensor([weights[name] for name in REGION_LABELS]) if len(set(weights.values())) > 1 else None


class CaptionEncoder:
    """Captions to embeddings; the model's default text (L, D) for missing captions."""

    def __init__(self, encoder: TextEncoder, default: Tensor) -> None:
        self._encoder, self._default = encoder, default
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()

    @staticmethod
    def of(loaded: Checkpoint, schema: pa.Schema, device: torch.device) -> CaptionEncoder | None:
        """The caption encoder of a model; None if it has no text encoder, or the examples no captions."""
        if loaded.text_encoder is None or CAPTION not in schema.names:
            return None
        loaded.text_encoder.model.to(device)
        return CaptionEncoder(loaded.text_encoder, loaded.model.default_text.to(device))

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        """(B, L, D) float32, without gradient."""
        fresh = sorted({c for c in captions if c and c not in self._embeddings})
        if fresh:
            self._embeddings.update(zip(fresh, self._encoder(fresh)))
        rows = [self._embeddings[c] if c else self._default.float() for c in captions]
        while len(self._embeddings) > CACHED_CAPTIONS:
            self._embeddings.popitem(last=False)
        return torch.stack(rows)
