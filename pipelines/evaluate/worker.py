"""The worker of `evaluate`: tasks in, measured edits of every model and every control out.

Path: a unit's `PlannedTask`s -> `Task` -> each `Candidate` -> `measure_edits` -> OUT/rows/<unit>.parquet, a row per
edit and its picture.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch

from pipelines.evaluate.planned_task import PlannedTask
from pipelines.evaluate.tasks import FacesSource, Task
from pipelines.examples.layout import parquet_bytes
from rigface.editor import Editor, profile_of
from rigface.edits import PREVIEW
from rigface.errors import MissingAsset
from rigface.evaluation import report
from rigface.evaluation.baselines import controls
from rigface.evaluation.card_page import PICTURE
from rigface.evaluation.estimator import FaceEstimator
from rigface.evaluation.measurements import Networks
from rigface.evaluation.rows import Known, measure_edits
from rigface.evaluation.samples import Edited
from rigface.evaluation.strangers import extractors_of
from rigface.face.head.heads import load_head
from rigface.image import encode_jpeg, to_image, to_tensor
from rigface.judges.panel import Judges
from rigface.metrics.image import resized
from rigface.metrics.perceptual import InceptionFeatures, Lpips
from rigface.model.latents import decode, encode_target
from rigface.model.pipeline import RigFacePipeline
from rigface.profile import FaceProfile
from rigface.storage import lock
from rigface.storage.store import Store, sharded

ROWS = "rows"  # folder of the units' objects
JPEG_QUALITY = 92


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
class MeasuredWith:
    """Networks of the measurement; of those that may be left out, their files."""

    profile: FaceProfile
    identity: str = "dlib"
    second_identity: str = ""  # ONNX file
    lpips: str = ""  # folder
    inception: str = ""  # folder

    def estimator(self) -> FaceEstimator:
        return FaceEstimator.load(self.profile, self.identity)

    def judges(self) -> Judges:
        """The strangers that are installed."""
        return Judges.load(self.second_identity or None)

    def networks(self) -> Networks:
        """LPIPS and Inception from their folders; MissingAsset without their files."""
        lpips = self.lpips and Lpips(_file(self.lpips, "alexnet-owt-*.pth"), _file(self.lpips, "alex.pth"))
        return Networks(lpips or None, InceptionFeatures(_file(self.inception, "*.pt")) if self.inception else None)


@dataclass(frozen=True)
class UnitPlan:
    """Some tasks as one editor does them, or as the controls do."""

    editor: str | None  # name of a model in the card; None: the controls
    tasks: tuple[PlannedTask, ...]


def _file(folder: str, pattern: str) -> Path:
    found = sorted(Path(folder).glob(pattern))
    if not found:
        raise MissingAsset(f"{folder}: want a file {pattern}; see docs/evaluation.md")
    return found[0]


class EvaluateUnit:
    """Worker for units of tasks, one per actor: `models` by name in the card, pictures compared at `size` px."""

    def __init__(
        self, data: str, out: str, models: Mapping[str, str], seeds: int, size: int, device: str, threads: int,
        measured_with: MeasuredWith,
    ) -> None:  # fmt: skip
        cv2.setNumThreads(1)
        if threads:
            torch.set_num_threads(threads)
        self._out, self._size, self._models = lock.follow(Store(out)), size, models
        self._source = FacesSource(Store(data))
        self._candidate = cache(partial(candidate, seeds=seeds, device=device))
        self._estimator, self._judges = measured_with.estimator(), measured_with.judges()
        self._head, self._networks = load_head(self._estimator.head.name), measured_with.networks()
        self._known = Known()

    def __call__(self, unit: str, plan: UnitPlan) -> dict[str, int]:
        """Do one unit; counts of edits measured, tasks done, and tasks refused."""
        tasks = [task for planned in plan.tasks if (task := self._source.task(planned)) is not None]
        if plan.editor is None:
            previews = [edit for task in tasks for edit in self._edits(task, self._candidate(PREVIEW, PREVIEW))]
            edits = controls(previews, self._round_trip())
        else:
            editor = self._candidate(plan.editor, self._models[plan.editor])
            edits = [edit for task in tasks for edit in self._edits(task, editor)]
        rows = measure_edits(
            self._estimator,
            edits,
            head=self._head,
            judges=self._judges,
            networks=self._networks,
            size=self._size,
            known=self._known,
        )
        by_key = {(task.planned.name, task.planned.key): task for task in tasks}
        for row, edit in zip(rows, edits):
            task = by_key[edit.name, edit.key]
            row["kind"] = task.planned.kind
            row["source_sha256"], row["target_sha256"] = _sha256(task.source), _sha256(task.target)
            row[PICTURE] = None if edit.output is None else encode_jpeg(resized(edit.output, self._size), JPEG_QUALITY)
        if rows:
            table = report.rows_table(rows, self._estimator.extractors | extractors_of(self._judges))
            self._out.publish(sharded(ROWS, unit, ".parquet"), parquet_bytes(table), replace=False)
        refused = len(plan.tasks) - len(tasks) if plan.editor is None else 0
        return {"edits": len(rows), "tasks": len(tasks) if plan.editor is None else 0, "refused": refused}

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
