"""The worker of `evaluate`: tasks in, measured edits of every model and every control out.

Path: a unit's `PlannedTask`s -> `Task` -> each `Candidate` -> `Measurer` -> OUT/rows/<unit>.parquet, a row per edit and
its picture.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import cv2
import numpy as np
import torch

from pipelines.cluster.threads import torch_threads
from pipelines.evaluate.measurer import MeasuredWith, Measurer
from pipelines.evaluate.planned_task import PlannedTask
from pipelines.evaluate.tasks import FacesSource, Task
from rigface.editor import Editor, profile_of
from rigface.edits import PREVIEW
from rigface.evaluation.baselines import controls
from rigface.evaluation.samples import Edited
from rigface.image import to_image, to_tensor
from rigface.metrics.image import resized
from rigface.model.latents import decode, encode_target
from rigface.model.pipeline import RigFacePipeline
from rigface.profile import FaceProfile
from rigface.storage.store import Store


@dataclass(frozen=True, eq=False)
class Candidate:
    """An editor that is evaluated."""

    name: str  # in the card
    editor: Editor
    profile: FaceProfile  # of the faces it takes
    seeds: int = 1  # how many it is asked with; 1 if chance plays no part

    @property
    def pipeline(self) -> RigFacePipeline | None:
        """The diffusion model; None for previews and refiners."""
        return getattr(self.editor.model, "pipe", None)


def candidate(name: str, model: str, seeds: int, device: str) -> Candidate:
    """An editor by a name of `Editor.load`, which says what may be wrong with it."""
    editor, chance = Editor.load(model, device), False
    if (pipeline := getattr(editor.model, "pipe", None)) is not None:
        process = pipeline.model_config.process
        chance = process.kind != "bridge" or bool(process.bridge_noise)
    return Candidate(name, editor, profile_of(model), seeds if chance else 1)


def round_trip(pipeline: RigFacePipeline) -> Callable[[np.ndarray], np.ndarray]:
    """A picture, reduced to a model's size, through its autoencoder and back: the best its latents can hold."""

    @torch.no_grad()
    def encode_and_decode(picture: np.ndarray) -> np.ndarray:
        small = resized(picture, pipeline.model_config.size)
        latents = encode_target(pipeline.vae, to_tensor(small[None]).to(pipeline.device))
        out = to_image(decode(pipeline.vae, latents).clamp(0, 1))[0]
        return np.asarray(cv2.resize(out, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC))

    return encode_and_decode


@dataclass(frozen=True)
class UnitPlan:
    """Some tasks as one editor does them, or as the controls do."""

    editor: str | None  # name of a model in the card; None: the controls
    tasks: tuple[PlannedTask, ...]


class EvaluateUnit:
    """Worker for units of tasks, one per actor: `models` by name in the card, pictures compared at `size` px."""

    def __init__(
        self, data: str, out: str, models: Mapping[str, str], seeds: int, size: int, device: str, threads: int,
        measured_with: MeasuredWith,
    ) -> None:  # fmt: skip
        cv2.setNumThreads(1)
        self._threads, self._models, self._source = threads, models, FacesSource(Store(data))
        self._candidate = cache(partial(candidate, seeds=seeds, device=device))
        self._measure = Measurer(measured_with, out, size)
        self._read: tuple[Sequence[PlannedTask], list[Task]] = (), []
        self._previews: tuple[Sequence[PlannedTask], list[Edited]] = (), []

    def __call__(self, unit: str, plan: UnitPlan) -> dict[str, int]:
        """Do one unit; counts of edits measured, tasks done, and tasks refused."""
        tasks = self._tasks(plan.tasks)
        if plan.editor is None:
            edits = controls(self._edits_by(PREVIEW, PREVIEW, plan.tasks), self._round_trip())
        else:
            edits = self._edits_by(plan.editor, self._models[plan.editor], plan.tasks)
        rows = self._measure(edits)
        by_key = {(task.planned.name, task.planned.key): task for task in tasks}
        for row, edit in zip(rows, edits):
            task = by_key[edit.name, edit.key]
            row["kind"] = task.planned.kind
            row["source_sha256"], row["target_sha256"] = _sha256(task.source), _sha256(task.target)
        if rows:
            self._measure.publish(unit, rows)
        refused = len(plan.tasks) - len(tasks) if plan.editor is None else 0
        return {"edits": len(rows), "tasks": len(tasks) if plan.editor is None else 0, "refused": refused}

    def _tasks(self, planned: Sequence[PlannedTask]) -> list[Task]:
        """The tasks that can be done; those of the last call are kept, since the next unit is often of the same."""
        if self._read[0] != planned:
            self._read = planned, [task for one in planned if (task := self._source.task(one)) is not None]
        return self._read[1]

    def _edits_by(self, name: str, model: str, planned: Sequence[PlannedTask]) -> list[Edited]:
        """All tasks as a model does them; the last edits of the preview are kept for the controls."""
        if model == PREVIEW and self._previews[0] == planned:
            return [replace(edit, model=name) for edit in self._previews[1]]
        by = self._candidate(name, model)
        small = by.pipeline is None  # the preview and refiners: one thread is faster
        with torch_threads(1 if small else self._threads or torch.get_num_threads()):
            edits = [edit for task in self._tasks(planned) for edit in self._edits(task, by)]
        if model == PREVIEW:
            self._previews = planned, edits
        return edits

    def _round_trip(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """That of the first diffusion model; None without one."""
        candidates = (self._candidate(name, model) for name, model in self._models.items())
        pipeline = next((c.pipeline for c in candidates if c.pipeline is not None), None)
        return None if pipeline is None else round_trip(pipeline)

    def _edits(self, task: Task, by: Candidate) -> list[Edited]:
        """A task as a candidate does it, once for each seed."""
        planned, edits = task.planned, []
        face, wanted = task.wanted(by.profile)
        donor = None if task.donor is None else task.donor(by.profile)
        if donor is not None:
            wanted = by.editor.edited_params(face.params, planned.edit, {"identity": donor})
        for seed in range(by.seeds):
            began = time.perf_counter()
            picture, _ = by.editor.apply(task.source, face, wanted, seed, donor=donor)
            edits.append(
                Edited(
                    model=by.name,
                    name=planned.name,
                    key=planned.key,
                    person=planned.person,
                    source=task.source,
                    output=picture,
                    edit=planned.edit,
                    target=task.target,
                    truth=task.truth,
                    truth_shown=task.truth_shown,
                    target_person=planned.target_person,
                    sweep=planned.sweep,
                    seed=seed,
                    clip=None if planned.clip is None else (planned.clip, task.time_s),
                    latency_s=time.perf_counter() - began,
                )
            )
        return edits


def _sha256(picture: np.ndarray | None) -> str | None:
    return None if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()[:32]
