"""The worker of `evaluate`: tasks in, measured edits of every model and every control out.

Path: a unit's `PlannedTask`s -> `Task` -> each `Candidate` -> `measure_edits` -> OUT/rows/<unit>.parquet, a row per
edit and its picture.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from pipelines.evaluate.planned_task import PlannedTask
from pipelines.evaluate.tasks import FacesSource, Task
from pipelines.examples.layout import parquet_bytes
from rigface.editor import Editor, profile_of
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
from rigface.profile import OWN, FaceProfile
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
        process = pipeline.config.process
        chance = process.kind != "bridge" or bool(process.bridge_noise)
    return Candidate(name, editor, profile_of(model), seeds if chance else 1)


def round_trip(pipeline: RigFacePipeline) -> Callable[[np.ndarray], np.ndarray]:
    """A picture, reduced to a model's size, through its autoencoder and back: the best its latents can hold."""

    @torch.no_grad()
    def encode_and_decode(picture: np.ndarray) -> np.ndarray:
        small = resized(picture, pipeline.config.size)
        latents = encode_target(pipeline.vae, to_tensor(small[None]).to(pipeline.device))
        out = to_image(decode(pipeline.vae, latents).clamp(0, 1))[0]
        return np.asarray(cv2.resize(out, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC))

    return encode_and_decode


@dataclass(frozen=True)
class MeasuredWith:
    """Networks of the measurement: in place of those that the models' profile names, and further ones."""

    detector: str | None = None
    parser: str | None = None
    identity: str = "dlib"
    lpips: str = ""  # folder
    inception: str = ""  # folder
    second_identity: str = ""  # ONNX file

    def estimator(self, profiles: set[FaceProfile]) -> FaceEstimator:
        """The estimator of the profile that all models share, or else of the own one."""
        profile = next(iter(profiles)) if len(profiles) == 1 else OWN
        return FaceEstimator.load(profile.adjusted(self.detector, self.parser), self.identity)

    def judges(self) -> Judges:
        """The strangers that are installed."""
        return Judges.load(self.second_identity or None)

    def networks(self) -> Networks:
        """LPIPS and Inception from their folders; MissingAsset without their files."""
        lpips = self.lpips and Lpips(_file(self.lpips, "alexnet-owt-*.pth"), _file(self.lpips, "alex.pth"))
        return Networks(lpips or None, InceptionFeatures(_file(self.inception, "*.pt")) if self.inception else None)


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
        self._out, self._size = lock.follow(Store(out)), size
        self._source = FacesSource(Store(data))
        self._candidates = [candidate(name, model, seeds, device) for name, model in models.items()]
        pipelines = [c.pipeline for c in self._candidates if c.pipeline is not None]
        self._round_trip = round_trip(pipelines[0]) if pipelines else None
        self._estimator = measured_with.estimator({c.profile for c in self._candidates})
        self._head, self._networks = load_head(self._estimator.head.name), measured_with.networks()
        self._judges = measured_with.judges()
        self._known = Known()

    def __call__(self, unit: str, plan: Sequence[PlannedTask]) -> dict[str, int]:
        """Do one unit; counts of edits measured, tasks done, and tasks refused."""
        tasks = [task for planned in plan if (task := self._source.task(planned)) is not None]
        edits = [edit for task in tasks for edit in self._edits(task)]
        edits += controls(edits, self._round_trip)
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
        return {"edits": len(rows), "tasks": len(tasks), "refused": len(plan) - len(tasks)}

    def _edits(self, task: Task) -> list[Edited]:
        """A task as every candidate does it."""
        planned, edits = task.planned, []
        for candidate in self._candidates:
            face, wanted = task.wanted(candidate.profile)
            for seed in range(candidate.seeds):
                began = time.perf_counter()
                picture, _ = candidate.editor.apply(task.source, face, wanted, seed)
                edits.append(
                    Edited(
                        model=candidate.name,
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
