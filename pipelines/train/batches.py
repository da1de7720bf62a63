"""The examples of each step as latents on the device, with what is said of them, read ahead.

Path: `feed.Order` -> windows -> `feed.read_ahead` or `ingest.over_ray` -> `Batches` -> the loop (train_loop.py).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipelines.train import batch_sampler, model_setup
from pipelines.train.augmentation import augmented
from pipelines.train.config import TrainConfig
from rigface.errors import PlanError
from rigface.examples import CAPTION, PICTURES, examples_of, numbers_of
from rigface.model.checkpoint import Checkpoint
from rigface.model.latents import LatentConditions, LatentExample, encode_example
from rigface.model.text import TextEncoder
from rigface.storage.store import Store

if TYPE_CHECKING:
    from pipelines.train.trainer_state import TrainerState

KEPT_PROMPTS = 4096  # embeddings: in clips one caption is said of many frames


class Batches:
    """Steps' examples as latents on the device, and how long each was waited for."""

    def __init__(
        self, config: TrainConfig, source: Store, parts: list[str], trainee: TrainerState, micro_batches: list[int]
    ) -> None:
        rows = batch_sampler.usable_rows(source, parts, "train")
        self._order = batch_sampler.BatchSampler(
            rows, config.batch, config.micro_batches, config.shuffle_window, config.seed
        )
        self._latent = batch_sampler.latents_of(source, parts[0])
        if self._latent is not None and config.augment:
            raise PlanError(
                f"{source.uri} holds latents, and augment changes pictures: give the folder that `pair` wrote, or --no-augment"
            )
        model_setup.check(trainee.loaded, trainee.spec, self._latent)
        names = [f"{name}_latents" if self._latent else name for name in PICTURES]
        columns = ["expression_code", *names]
        self._listener = CaptionEncoder.of(trainee.loaded, source, parts[0], trainee.device)
        if self._listener is not None:
            columns.append(CAPTION)
        windows = self._order.windows(micro_batches, trainee.step)
        if config.reader == "ray" and config.workers:
            from pipelines.train.ray_reader import read_with_ray

            self._windows = read_with_ray(windows, source, parts, columns)
        else:
            self._windows = batch_sampler.read_ahead(windows, batch_sampler.Reader(source, parts, columns))
        self._trainee, self._micro_batches = trainee, micro_batches

    def __iter__(self) -> Iterator[tuple[int, list[LatentExample], float]]:
        size = self._order.batch
        clock = time.perf_counter()
        for window, table in self._windows:
            for k in range(window.steps):
                first = k * len(self._micro_batches) * size
                step = window.first + k + 1
                examples = [
                    self._told(table.slice(first + i * size, size), step, micro_batch)
                    for i, micro_batch in enumerate(self._micro_batches)
                ]
                yield step, examples, time.perf_counter() - clock
                clock = time.perf_counter()

    def _told(self, table: pa.Table, step: int, micro_batch: int) -> LatentExample:
        """The example, with what is said of it where the model can hear."""
        example = self._example(table, step, micro_batch)
        if self._listener is None:
            return example
        text = self._listener(table[CAPTION].to_pylist())
        return replace(example, conditions=replace(example.conditions, text=text))

    def _example(self, table: pa.Table, step: int, micro_batch: int) -> LatentExample:
        device, config = self._trainee.device, self._trainee.config
        if self._latent is None:
            example = examples_of(table)
            if config.augment:
                example = augmented(example, (config.seed, step, micro_batch))
            with torch.inference_mode():
                made = encode_example(self._trainee.loaded.vae, example)
            return made.map(lambda t: t.half().float().clone())  # as if they had been stored
        shape = (self._latent.channels, self._latent.height, self._latent.width)
        names = (f"{name}_latents" for name in PICTURES)
        reference, background, render, target = (
            torch.from_numpy(numbers_of(table, n)).reshape(-1, *shape).to(device) for n in names
        )
        code = torch.from_numpy(numbers_of(table, "expression_code")).to(device)
        return LatentExample(LatentConditions(background, render, code, reference=reference), target)


class CaptionEncoder:
    """Captions to embeddings; the model's default text where nothing is said.

    Args:
        encoder: on the device. default: (L, D).
    """

    def __init__(self, encoder: TextEncoder, default: Tensor) -> None:
        self._encoder, self._default = encoder, default
        self._heard: OrderedDict[str, Tensor] = OrderedDict()

    @staticmethod
    def of(loaded: Checkpoint, source: Store, part: str, device: torch.device) -> CaptionEncoder | None:
        """The ears of a model; None where it has no text encoder, or the examples no captions."""
        with source.open(part) as f:
            told = CAPTION in pq.read_schema(f).names
        if loaded.text_encoder is None or not told:
            return None
        loaded.text_encoder.model.to(device)
        return CaptionEncoder(loaded.text_encoder, loaded.model.default_text.to(device))

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        """(B, L, D) float32, without gradient."""
        fresh = sorted({c for c in captions if c and c not in self._heard})
        if fresh:
            self._heard.update(zip(fresh, self._encoder(fresh)))
        rows = [self._heard[c] if c else self._default.float() for c in captions]
        while len(self._heard) > KEPT_PROMPTS:
            self._heard.popitem(last=False)
        return torch.stack(rows)
