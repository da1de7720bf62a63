"""The worker of `evaluate`: tasks in, measured edits of every model and every control out.

Path: a unit's `PlannedTask`s -> `Task` -> each `Candidate` -> `measure` -> OUT/rows/<unit>.parquet, a row per edit and
its picture.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from pipelines.evaluate.planned_task import PlannedTask
from pipelines.evaluate.tasks import Task, source_of
from pipelines.examples.layout import parquet_bytes
from rigface.editor import EditModel
from rigface.edits import PREVIEW
from rigface.evaluation import report
from rigface.evaluation.baselines import controls
from rigface.evaluation.estimator import Estimate, FaceEstimator
from rigface.evaluation.rows import measure_edits
from rigface.evaluation.samples import Edited
from rigface.face.head.heads import load_head
from rigface.image import encode_jpeg, to_image, to_tensor
from rigface.metrics.image import resized
from rigface.model.latents import decode, encode_target
from rigface.model.pipeline import RigFacePipeline
from rigface.model_editor import ModelEditor, check_head
from rigface.profile import OWN, ConditionSpec, FaceProfile
from rigface.storage import lock
from rigface.storage.store import Store, sharded

ROWS = "rows"  # folder of the units' objects
JPEG_QUALITY = 92


@dataclass(frozen=True, eq=False)
class Candidate:
    """An editor that is evaluated."""

    name: str  # in the card
    spec: ConditionSpec  # of its conditions
    paint: EditModel  # conditions and a seed to a picture
    seeds: int = 1  # how many it is asked with; 1 if chance plays no part
    pipeline: RigFacePipeline | None = None  # None for the preview


def candidate(name: str, model: str, seeds: int, device: str, size: int) -> Candidate:
    """The preview with pictures of `size` px, or a checkpoint by a name of `RigFacePipeline.from_pretrained`.

    MissingAsset or BadCheckpoint if there are no weights, or those of another head.
    """
    if model == PREVIEW:
        return Candidate(name, ConditionSpec("texture", size), lambda conditions, _: conditions.render)
    pipeline = RigFacePipeline.from_pretrained(model, device, autocast="auto")
    config, process = pipeline.config, pipeline.config.process
    check_head(pipeline, load_head(config.profile.head).spec)
    is_deterministic = process.kind == "bridge" and not process.bridge_noise
    return Candidate(name, config.conditions, ModelEditor(pipeline), 1 if is_deterministic else seeds, pipeline)


def round_trip(pipeline: RigFacePipeline, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A picture, reduced to `size`, through a model's autoencoder and back: the best its latents can hold."""

    @torch.no_grad()
    def encode_and_decode(picture: np.ndarray) -> np.ndarray:
        latents = encode_target(pipeline.vae, to_tensor(resized(picture, size))[None].to(pipeline.device))
        return to_image(decode(pipeline.vae, latents).clamp(0, 1))[0]

    return encode_and_decode


@dataclass(frozen=True)
class MeasuredWith:
    """Networks of the measurement in place of those that the models' profile names."""

    detector: str | None = None
    parser: str | None = None
    identity: str = "dlib"

    def estimator(self, profiles: set[FaceProfile]) -> FaceEstimator:
        """The estimator of the profile that all models share, or else of the own one."""
        profile = next(iter(profiles)) if len(profiles) == 1 else OWN
        return FaceEstimator.load(profile.adjusted(self.detector, self.parser), self.identity)


class EvaluateUnit:
    """Worker for units of tasks, one per actor: `models` by name in the card, pictures compared at `size` px."""

    def __init__(
        self, data: str, out: str, models: Mapping[str, str], seeds: int, size: int, device: str, threads: int,
        measured_with: MeasuredWith,
    ) -> None:  # fmt: skip
        cv2.setNumThreads(1)
        if threads:
            torch.set_num_threads(threads)
        self._out, self._size = lock.follow(Store(out)), size
        self._source = source_of(Store(data), size)
        self._candidates = [candidate(name, model, seeds, device, size) for name, model in models.items()]
        pipelines = [c.pipeline for c in self._candidates if c.pipeline is not None]
        self._round_trip = round_trip(pipelines[0], size) if pipelines else None
        profiles = {c.spec.profile for c in self._candidates if c.pipeline is not None}
        self._estimator = measured_with.estimator(profiles)
        self._estimates: dict[bytes, Estimate | None] = {}

    def __call__(self, unit: str, plan: Sequence[PlannedTask]) -> dict[str, int]:
        """Do one unit; counts of edits measured, tasks done, and tasks refused."""
        tasks = [task for planned in plan if (task := self._source.task(planned)) is not None]
        edits = [edit for task in tasks for edit in self._edits(task)]
        edits += controls(edits, self._round_trip)
        rows = measure_edits(self._estimator, edits, size=self._size, known=self._estimates)
        by_key = {(task.planned.name, task.planned.key): task for task in tasks}
        for row, edit in zip(rows, edits):
            task = by_key[edit.name, edit.key]
            row["kind"] = task.planned.kind
            row["source_sha256"], row["target_sha256"] = _sha256(task.source), _sha256(task.target)
            row["picture"] = (
                None if edit.output is None else encode_jpeg(resized(edit.output, self._size), JPEG_QUALITY)
            )
        if rows:
            table = report.rows_table(rows, dict(self._estimator.extractors))
            self._out.publish(sharded(ROWS, unit, ".parquet"), parquet_bytes(table), replace=False)
        return {"edits": len(rows), "tasks": len(tasks), "refused": len(plan) - len(tasks)}

    def _edits(self, task: Task) -> list[Edited]:
        """A task as every candidate does it."""
        planned, edits = task.planned, []
        for editor in self._candidates:
            began = time.perf_counter()
            conditions = task.conditions(editor.spec)
            composed_s = time.perf_counter() - began
            for seed in range(editor.seeds):
                began = time.perf_counter()
                picture = editor.paint(conditions, seed)
                latency_s = composed_s + time.perf_counter() - began
                edits.append(
                    Edited(
                        model=editor.name,
                        name=planned.name,
                        key=planned.key,
                        person=planned.person,
                        source=task.source,
                        output=picture,
                        edit=planned.edit,
                        target=task.target,
                        truth=task.truth,
                        target_person=planned.target_person,
                        sweep=planned.sweep,
                        seed=seed,
                        clip=None if planned.clip is None else (planned.clip, task.time_s),
                        latency_s=None if planned.example and editor.pipeline is None else latency_s,
                    )
                )
        return edits


def _sha256(picture: np.ndarray | None) -> str | None:
    return None if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()[:32]
