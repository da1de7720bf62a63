"""Validation inside training: edits of a fixed set of held-out examples, measured and drawn.

Path: rows of split `test` -> the averaged model, sampled with its own process -> numbers and a grid of pictures -> log.
Workers share the rows, and the first one makes the numbers of all: those of one worker.

Numbers, each as `validation/...`: the loss at fixed draws, by noise level (`loss`, `loss_t125` ...: squared error of
the answer, unweighted); PSNR of the edit and of the preview against the true frame; and, with `validate_faces`
(rigface/metrics), the share of outputs with a face, the distance of pose, expression and light to the true frame's,
their gain over *copy source*, and the distance of the identity vectors of edit and true frame, for the preview too. The
people of these rows are never trained on. `rigface evaluate` is the whole evaluation.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.examples import held_out
from pipelines.examples.example_index import ExampleIndex
from pipelines.train.backend import Backend
from pipelines.train.config import TrainConfig
from pipelines.train.metric_log import MetricLog
from pipelines.train.trainer_state import TrainerState
from rigface.evaluation.estimator import Estimate, FaceEstimator
from rigface.examples import IDENTITY, examples_of
from rigface.image import to_image, to_tensor
from rigface.metrics.gain import gain
from rigface.metrics.geometry import distances, stack
from rigface.model.diffusion import Draw, row_losses
from rigface.model.latents import decode, encode_conditions, encode_example, lost_detail
from rigface.model.model_config import ModelConfig
from rigface.model.sampling import SamplingBatch, SamplingState, seeded
from rigface.types import DLIB_SAME_PERSON, Example

GRID_ROWS = 12
MAX_TURN_DEG = 40  # larger turns are not preferred any more
BATCH = 8  # examples sampled at once
LEVELS = (0.125, 0.375, 0.625, 0.875)  # shares of the process's time at which the loss is measured
COLUMNS = ("reference", "background", "render", "target", "expression_code", "example", "identity", "delta_pose_deg")


class Validation:
    """The validation of one run; faces are measured with the profile of the `model`."""

    def __init__(self, config: TrainConfig, index: ExampleIndex, backend: Backend, model: ModelConfig) -> None:
        self._config, self._backend, self._profile = config, backend, model.profile
        self._table = _chosen(index, config.validation_examples, [IDENTITY] if model.identity else [])
        self._estimator: FaceEstimator | None = None
        self._estimates: dict[str, list[Estimate | None]] = {}

    def run(self, state: TrainerState, log: MetricLog) -> dict[str, float]:
        """Sample, measure, log. Every worker calls it, for its share of the rows; the first one returns the numbers."""
        if self._table is None:
            return {}
        whole = examples_of(self._table)
        rows = shared_rows(len(whole.target), self._backend)
        example = Example(whole.conditions.map(itemgetter(rows)), whole.target[rows])
        with state.average.swapped(), torch.no_grad():
            state.inner.eval()
            losses = losses_by_level(state, example, rows, self._config)
            edits = sample(state, example, rows, self._config.seed)
            state.inner.train()
        estimates = self._estimated(example, edits) if self._config.validate_faces else {}
        shares: list[Any] | None = [None] * self._backend.world if self._backend.rank == 0 else None
        if self._backend.world > 1:
            torch.distributed.gather_object((losses, edits, estimates), shares, group=state.group)
        else:
            shares = [(losses, edits, estimates)]
        if shares is None:
            return {}
        return self._logged(whole, shares, log, state.step)

    def _logged(self, example: Example, shares: list[Any], log: MetricLog, step: int) -> dict[str, float]:
        """Numbers and pictures of all workers' losses, edits and estimates."""
        losses, edits, estimates = zip(*shares)
        count = len(example.target)
        means = {name: float(np.mean(in_turns([own[name] for own in losses], count))) for name in losses[0]}
        pictures = np.stack(in_turns(edits, count))
        numbers = {"loss": sum(means.values()) / len(means), **means, **measure(example, pictures)}
        if estimates[0]:
            views = {view: in_turns([own[view] for own in estimates], count) for view in estimates[0]}
            numbers |= measure_faces(views)
        numbers = {f"validation/{name}": value for name, value in numbers.items()}
        log.add(numbers, step)
        log.picture("edits", grid(example, pictures), step)
        return numbers

    def _estimated(self, example: Example, edits: np.ndarray) -> dict[str, list[Estimate | None]]:
        """The faces of all views."""
        if self._estimator is None:
            self._estimator = FaceEstimator.load(self._profile)
            c = example.conditions
            views = {"source": c.reference, "preview": c.render, "target": example.target}
            self._estimates = {name: self._estimator(list(pictures)) for name, pictures in views.items()}
        return {**self._estimates, "edit": self._estimator(list(edits))}


def shared_rows(count: int, backend: Backend) -> np.ndarray:
    """A worker's rows of `count`, in turns. All have as many, the last ones again some first ones: with FSDP they
    compute together."""
    share = -(-count // backend.world)
    return (backend.rank + backend.world * np.arange(share)) % count


def in_turns(shares: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """The inverse of `shared_rows`: `count` values in the order of the rows, of each worker's."""
    return [shares[row % len(shares)][row // len(shares)] for row in range(count)]


def measure(example: Example, edits: np.ndarray) -> dict[str, float]:
    """Numbers of edits (N, S, S, 3) uint8."""
    preview, target = example.conditions.render, example.target
    return {
        "psnr": _psnr(edits, target),
        "preview_psnr": _psnr(preview, target),
        "copy_psnr": _psnr(example.conditions.reference, target),
    }


def measure_faces(estimates: dict[str, list[Estimate | None]]) -> dict[str, float]:
    """Numbers of the faces of each view: source, preview, target, edit."""
    usable = sum(bool(source and target) for source, target in zip(estimates["source"], estimates["target"]))
    numbers: dict[str, float] = {}
    for name, prefix in (("edit", ""), ("preview", "preview_")):
        rows = zip(estimates[name], estimates["source"], estimates["target"])
        faces = [(own, source, target) for own, source, target in rows if own and source and target]
        numbers[f"{prefix}face_found"] = len(faces) / max(usable, 1)
        if faces:
            numbers |= {f"{prefix}{key}": value for key, value in _face_numbers(faces).items()}
    return numbers


def _face_numbers(faces: Sequence[tuple[Estimate, Estimate, Estimate]]) -> dict[str, float]:
    """Numbers of estimates of outputs, sources and targets."""
    outputs, sources, targets = (stack([estimate.params for estimate in view]) for view in zip(*faces))
    after, before = distances(outputs, targets), distances(sources, targets)
    numbers: dict[str, float] = {}
    for trait in ("pose", "expression", "light"):
        numbers[f"{trait}_error"] = float(np.nanmean(after[trait]))
        numbers[f"{trait}_gain"] = float(np.nanmedian(gain(after[trait], before[trait])))
    vectors = [(output.identity, target.identity) for output, _, target in faces]
    apart = np.array([np.linalg.norm(a - b) for a, b in vectors if a is not None and b is not None])
    if len(apart):
        numbers["identity_distance"] = float(apart.mean())
        numbers["same_person"] = float((apart < DLIB_SAME_PERSON).mean())
    return numbers


def _chosen(index: ExampleIndex, count: int, more: list[str]) -> pa.Table | None:
    """Rows of split `test`, people in turns, larger turns first; the same in every run. None if there are none.

    Pairs of two photographs only, if there are any: the preview can undo its own staging of a source, which no model
    can beat.
    """
    if count < 1:
        return None
    rows = held_out.rows_of(index)
    if not rows:
        return None
    rows = [row for row in rows if row.kind == "pair"] or rows
    chosen = held_out.in_turns(rows, lambda row: (-min(row.delta_pose_deg, MAX_TURN_DEG), row.example))[:count]
    return pa.concat_tables([r.part.table([*COLUMNS, *more]).slice(r.row, 1) for r in chosen]).combine_chunks()


def losses_by_level(
    state: TrainerState, example: Example, numbers: np.ndarray, config: TrainConfig
) -> dict[str, list[float]]:
    """Squared error of the model's answers to each of N examples, at each of `LEVELS`; `numbers` are their rows.

    Noise and levels are the same in every run, so that losses of one process compare between steps, runs and recipes. A
    bridge that is trained at its start alone is measured there.
    """
    process, vae, seed = state.loaded.config.process, state.loaded.vae, config.seed
    levels = (1.0,) if config.start_step_fraction == 1 else LEVELS
    losses: dict[str, list[float]] = {f"loss_t{round(level * process.train_timesteps)}": [] for level in levels}
    for first in range(0, len(numbers), BATCH):
        rows = slice(first, first + BATCH)
        part = Example(example.conditions.map(itemgetter(rows)), example.target[rows])
        latents = encode_example(vae, part, state.loaded.model.reads_pixels)
        noise, _ = seeded([seed + int(k) for k in numbers[rows]], tuple(latents.target.shape[1:]))
        for level, values in zip(levels, losses.values()):
            times = torch.full((len(noise),), round(level * process.train_timesteps), device=state.device)
            with state.autocast():
                drawn = Draw(times, noise.to(state.device), None)
                values += row_losses(state.inner, latents, process, drawn, min_snr=0.0).tolist()
    return losses


def sample(state: TrainerState, example: Example, numbers: np.ndarray, seed: int) -> np.ndarray:
    """(N, S, S, 3) uint8 edits of N examples, whose rows are `numbers`, with the process's own sampler and steps."""
    pictures = []
    vae, process = state.loaded.vae, state.loaded.config.process

    sharded = state.config.sharding != "ddp"  # weights are whole only inside forward: no tokens ahead of it
    for first in range(0, len(numbers), BATCH):
        rows = slice(first, first + BATCH)
        part = example.conditions.map(itemgetter(rows))
        conditions = encode_conditions(vae, part, hints=state.loaded.model.reads_pixels)
        reference: Any = conditions.reference

        def predict(*args: Any, reference: torch.Tensor | None = reference, **kwargs: Any) -> torch.Tensor:
            with state.autocast():
                return state.inner(*args, **kwargs | ({"reference": reference} if sharded else {}))

        tokens = None
        if not sharded:
            with state.autocast():
                tokens = state.inner.encode_reference(reference)
        noise, generators = seeded([seed + int(k) for k in numbers[rows]], tuple(conditions.background.shape[1:]))
        sampling = SamplingState(process, conditions, noise.to(state.device), tokens, generators=generators)
        batch = SamplingBatch(predict)
        batch.join(sampling)
        while not sampling.done:
            batch.step()
        decoded = decode(vae, sampling.latents)
        if state.loaded.config.detail:
            render = to_tensor(example.conditions.render[rows]).to(decoded)
            decoded = decoded + lost_detail(vae, render, conditions.render)
        pictures.append(to_image(decoded.clamp(0, 1)))
    return np.concatenate(pictures)


def grid(example: Example, edits: np.ndarray) -> np.ndarray:
    """Rows of source, preview, edit, truth; (H, W, 3) uint8."""
    rows = np.linspace(0, len(edits) - 1, min(GRID_ROWS, len(edits))).astype(int)
    c = example.conditions
    strips = [np.concatenate([c.reference[i], c.render[i], edits[i], example.target[i]], axis=1) for i in rows]
    half = (len(strips) + 1) // 2
    columns = [np.concatenate(part) for part in (strips[:half], strips[half:]) if part]
    if len(columns) == 2 and len(columns[0]) != len(columns[1]):
        columns[1] = np.concatenate([columns[1], np.zeros_like(strips[0])])
    return np.concatenate(columns, axis=1)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over pictures (N, S, S, 3) uint8, dB."""
    error = np.square(a.astype(np.float32) / 255 - b.astype(np.float32) / 255).mean((1, 2, 3))
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-8))))
