"""Batches of a refiner's examples: drawn by person and need, mirrored, recoloured and shifted.

Path: OUT/examples -> `ExampleBatches` -> `Batch` -> `loss.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from pipelines.examples.layout import parts_of
from pipelines.refine.examples import RefinerExample, examples_of
from rigface.examples import mirrored_expression
from rigface.storage.store import Store
from rigface.types import HeadSpec

SHIFT_PX = 4
GAIN, CHANNEL_GAIN, GAMMA = 0.12, 0.08, 0.15  # standard deviations of the recolouring; of the gamma its logarithm
NEED = (0.3, 2.0)  # limits of how often an example is drawn, by the preview's error in mouth and eyes
NORMAL_X = 0  # channel of the geometry that changes its sign in a mirror


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples as float32 tensors; pictures in [-1, 1]."""

    preview: Tensor  # (N, 3, S, S)
    photograph: Tensor  # (N, 3, S, S)
    geometry: Tensor  # (N, 3, S, S)
    target: Tensor  # (N, 3, S, S)
    regions: Tensor  # (N, S, S) int64 of `regions.REGIONS`
    code: Tensor  # (N, 2 E)

    @property
    def pictures(self) -> Tensor:
        """(N, 9, S, S) what the network sees."""
        stacked = torch.cat([self.preview, self.photograph, self.geometry], dim=1)
        return stacked.contiguous(memory_format=torch.channels_last)

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


class ExampleBatches:
    """All examples of an output, encoded in memory (about 100 kB each), and random batches of them."""

    def __init__(self, store: Store, head: HeadSpec) -> None:
        self._rows = [row for part in parts_of(store) for row in store.table(part).to_pylist()]
        self._mirror = mirrored_expression(head.expression_names)
        split = np.array([row["split"] for row in self._rows])
        self.train, self.test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
        people = np.array([self._rows[k]["identity"] for k in self.train])
        _, person, count = np.unique(people, return_inverse=True, return_counts=True)
        error = np.array([self._rows[k]["error"] for k in self.train])
        need = (error / max(np.median(error), 1e-6)).clip(*NEED) if len(error) else error
        weight = need / np.sqrt(count[person])  # of clips' people there are many frames
        self._probability = weight / weight.sum()

    def held_out(self, count: int) -> dict[str, np.ndarray]:
        """Up to `count` held-out examples of each kind, evenly chosen."""
        kinds = np.array([self._rows[k]["kind"] for k in self.test])
        of_kind = {str(kind): self.test[kinds == kind] for kind in np.unique(kinds)}
        return {
            k: rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)] for k, rows in of_kind.items()
        }

    def draw(self, count: int, random: np.random.Generator) -> Batch:
        """A random training batch, augmented."""
        return self._augmented(self.batch(random.choice(self.train, count, p=self._probability)), random)

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """These examples as they are."""
        return _collated(examples_of(self._rows[int(k)] for k in rows))

    def _augmented(self, batch: Batch, random: np.random.Generator) -> Batch:
        count = len(batch.code)
        mirrored = torch.from_numpy(random.random(count) < 0.5)

        def flip(values: Tensor) -> Tensor:
            return torch.where(mirrored.view(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)

        def normal(size: tuple[int, ...], spread: float) -> Tensor:
            return torch.from_numpy(random.normal(0, spread, size)).float()

        gain = ((1 + normal((count, 1, 1, 1), GAIN)) * (1 + normal((count, 3, 1, 1), CHANNEL_GAIN))).clamp(0.6, 1.4)
        gamma = normal((count, 1, 1, 1), GAMMA).exp()

        def recolour(values: Tensor) -> Tensor:
            return (((values + 1) / 2).clamp(0, 1).pow(gamma) * gain).clamp(0, 1) * 2 - 1

        shift = tuple(random.integers(-SHIFT_PX, SHIFT_PX + 1, 2).tolist())

        def roll(values: Tensor) -> Tensor:
            return torch.roll(values, shift, (-2, -1))

        geometry = flip(batch.geometry)
        on_face = (geometry[:, :2] > -1).any(1)
        turned = torch.where((mirrored[:, None, None] & on_face), -geometry[:, NORMAL_X], geometry[:, NORMAL_X])
        geometry = torch.cat([turned[:, None], geometry[:, NORMAL_X + 1 :]], dim=1)
        wanted, own = batch.code.chunk(2, dim=1)
        code = torch.cat([torch.where(mirrored[:, None], c[:, self._mirror], c) for c in (wanted, own)], dim=1)
        return Batch(
            preview=roll(recolour(flip(batch.preview))),
            photograph=recolour(flip(batch.photograph)),
            geometry=roll(geometry),
            target=roll(recolour(flip(batch.target))),
            regions=roll(flip(batch.regions)),
            code=code,
        )


def _collated(examples: Sequence[RefinerExample]) -> Batch:
    def pictures(values: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2).float() / 127.5 - 1

    return Batch(
        preview=pictures([e.inputs.preview for e in examples]),
        photograph=pictures([e.inputs.photograph for e in examples]),
        geometry=pictures([e.inputs.geometry for e in examples]),
        target=pictures([e.target for e in examples]),
        regions=torch.from_numpy(np.stack([e.regions for e in examples])).long(),
        code=torch.from_numpy(np.stack([e.inputs.code for e in examples])),
    )
