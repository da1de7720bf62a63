"""A look at held-out edits inside training: the same few, again and again, with the numbers that mean something.

Path: rows of split `test` -> the averaged model, sampled as people will -> numbers and a grid of pictures -> journal.

Numbers, each as `validation/...`: PSNR of the edit and of the preview against the true frame; and, where the judge looks
(rigface/metrics), how often a face was found, how far pose, expression and light are from the true frame's, their gain over
*copy source*, and the distance of the identity vectors of edit and true frame, beside the preview's own. People of these
rows are never trained on. The whole evaluation is `rigface evaluate`; this is the light on the dashboard.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.examples import held_out
from pipelines.examples.layout import parts_of
from pipelines.train.backend import Backend
from pipelines.train.config import TrainConfig
from pipelines.train.metric_log import MetricLog
from rigface.examples import examples_of
from rigface.image import to_image, to_tensor
from rigface.model.latents import decode, encode_conditions, lost_detail
from rigface.model.sampling import SamplingBatch, SamplingState, seeded
from rigface.storage.store import Store
from rigface.types import DLIB_SAME_PERSON, Example

if TYPE_CHECKING:
    from pipelines.train.trainer_state import TrainerState

SHOWN = 12  # rows of the grid
BATCH = 8  # examples sampled at once
COLUMNS = ("reference", "background", "render", "target", "expression_code", "example", "identity", "delta_pose_deg")


class Validation:
    """The held-out examples of one run."""

    def __init__(self, config: TrainConfig, source: Store, session: Backend) -> None:
        self._config, self._session = config, session
        self._table = _chosen(source, config.validation_examples)
        self._judge: Any = None
        self._known: dict[str, list[Any]] = {}

    def look(self, trainee: TrainerState, journal: MetricLog) -> dict[str, float]:
        """Sample, measure, write down. Every worker calls it, the first one's numbers count."""
        if self._table is None:
            return {}
        example = examples_of(self._table)
        with trainee.average.swapped(), torch.no_grad():
            trainee.inner.eval()
            made = sample(trainee, example, self._config.seed)
            trainee.inner.train()
        if self._session.rank:
            return {}
        numbers = {f"validation/{name}": value for name, value in self.measure(example, made).items()}
        journal.add(numbers, trainee.step)
        journal.picture("edits", grid(example, made), trainee.step)
        return numbers

    def measure(self, example: Example, made: np.ndarray) -> dict[str, float]:
        """Numbers of edits (N, S, S, 3) uint8."""
        preview, target = example.conditions.render, example.target
        numbers = {
            "psnr": _psnr(made, target),
            "preview_psnr": _psnr(preview, target),
            "copy_psnr": _psnr(example.conditions.reference, target),
        }
        if self._config.validate_faces:
            numbers |= self._judged(example, made)
        return numbers

    def _judged(self, example: Example, made: np.ndarray) -> dict[str, float]:
        from rigface.evaluation.estimator import FaceEstimator
        from rigface.metrics.gain import gain
        from rigface.metrics.geometry import distances, stack

        if self._judge is None:
            self._judge = FaceEstimator.load()
            views = {"source": example.conditions.reference, "preview": example.conditions.render}
            self._known = {name: self._judge(list(p)) for name, p in {**views, "target": example.target}.items()}
        seen = {**self._known, "edit": self._judge(list(made))}
        both = [i for i in range(len(made)) if all(seen[n][i] is not None for n in ("source", "target"))]
        numbers: dict[str, float] = {}
        for name in ("edit", "preview"):
            own = [i for i in both if seen[name][i] is not None]
            prefix = "" if name == "edit" else "preview_"
            numbers[f"{prefix}face_found"] = len(own) / max(len(both), 1)
            if not own:
                continue
            params = {n: stack([seen[n][i].params for i in own]) for n in (name, "source", "target")}
            after, before = distances(params[name], params["target"]), distances(params["source"], params["target"])
            for trait in ("pose", "expression", "light"):
                numbers[f"{prefix}{trait}_error"] = float(np.nanmean(after[trait]))
                numbers[f"{prefix}{trait}_gain"] = float(np.nanmedian(gain(after[trait], before[trait])))
            apart = [
                float(np.linalg.norm(seen[name][i].identity - seen["target"][i].identity))
                for i in own
                if seen[name][i].identity is not None and seen["target"][i].identity is not None
            ]
            if apart:
                numbers[f"{prefix}identity_distance"] = float(np.mean(apart))
                numbers[f"{prefix}same_person"] = float(np.mean(np.array(apart) < DLIB_SAME_PERSON))
        return numbers


def _chosen(source: Store, count: int) -> pa.Table | None:
    """Rows of split `test`, people in turns, larger turns first; the same in every run. None where there are none.

    Pairs of two photographs only, where there are any: of a source that the preview has staged, the preview undoes its own
    doing, and nothing that learns can beat that.
    """
    if count < 1:
        return None
    rows = held_out.rows_of(source, parts_of(source))
    if not rows:
        return None
    rows = [row for row in rows if row["kind"] == "pair"] or rows
    wanted = held_out.in_turns(rows, _largest_turn_first)[:count]
    return pa.concat_tables(
        [source.table(r["part"], list(COLUMNS)).slice(r["row"], 1) for r in wanted]
    ).combine_chunks()


def _largest_turn_first(row: dict[str, Any]) -> tuple:
    return -min(row["delta_pose_deg"], 40), row["example"]


def sample(trainee: TrainerState, example: Example, seed: int) -> np.ndarray:
    """(N, S, S, 3) uint8 edits of N examples, with the process's own sampler and steps."""
    pictures = []
    vae, process = trainee.loaded.vae, trainee.loaded.config.process

    sharded = (
        trainee.config.sharding == "fsdp"
    )  # weights are whole only inside forward: no reference tokens ahead of it
    count = len(example.target)
    for first in range(0, count, BATCH):
        rows = range(first, min(first + BATCH, count))
        conditions = encode_conditions(vae, example.conditions.map(itemgetter(slice(rows.start, rows.stop))))
        reference: Any = conditions.reference

        def predict(*args: Any, reference: torch.Tensor | None = reference, **kwargs: Any) -> torch.Tensor:
            with trainee.autocast():
                return trainee.inner(*args, **kwargs | ({"reference": reference} if sharded else {}))

        reference_tokens = None
        if not sharded:
            with trainee.autocast():
                reference_tokens = trainee.inner.encode_reference(reference)
        noise, generators = seeded([seed + k for k in rows], tuple(conditions.background.shape[1:]))
        state = SamplingState(process, conditions, noise.to(trainee.device), reference_tokens, generators=generators)
        batch = SamplingBatch(predict)
        batch.join(state)
        while not state.done:
            batch.step()
        decoded = decode(vae, state.latents)
        if trainee.loaded.config.detail:
            render = to_tensor(example.conditions.render[rows.start : rows.stop]).to(decoded)
            decoded = decoded + lost_detail(vae, render, conditions.render)
        pictures.append(to_image(decoded.clamp(0, 1)))
    return np.concatenate(pictures)


def grid(example: Example, made: np.ndarray) -> np.ndarray:
    """Rows of source, preview, edit, truth; (H, W, 3) uint8."""
    rows = np.linspace(0, len(made) - 1, min(SHOWN, len(made))).astype(int)
    c = example.conditions
    strips = [np.concatenate([c.reference[i], c.render[i], made[i], example.target[i]], axis=1) for i in rows]
    half = (len(strips) + 1) // 2
    columns = [np.concatenate(part) for part in (strips[:half], strips[half:]) if part]
    if len(columns) == 2 and len(columns[0]) != len(columns[1]):
        columns[1] = np.concatenate([columns[1], np.zeros_like(strips[0])])
    return np.concatenate(columns, axis=1)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over pictures (N, S, S, 3) uint8, dB."""
    error = np.square(a.astype(np.float32) / 255 - b.astype(np.float32) / 255).mean((1, 2, 3))
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-8))))
