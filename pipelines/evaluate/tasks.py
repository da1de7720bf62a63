"""Evaluation tasks: edits of held-out people, and the pictures they begin with.

Path: OUT/faces -> `FacesSource.plan` -> `PlannedTask`s (small, sent to workers) -> `task` -> `Task`, which gives an
editor of any profile the face and the wanted coefficients.

* self-edit: two frames of one person in one input; the second is the truth.
* cross-identity: pose, expression or light of another person; or a face swap, whose donor is the other person.
* sweep: one number over seven values, on each person's most frontal frame.
* clip: the frames of one track drive its first frame; each frame is the truth.

The crop of 512 px of a row stands for the photograph.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.evaluate.config import EvaluateConfig, TaskKind
from pipelines.evaluate.planned_task import PlannedTask
from pipelines.evaluate.profile_faces import ProfileFaces, plain_conditions
from pipelines.evaluate.task_sampler import TaskSampler
from pipelines.examples.compose_example import TAKE, background_change, invent_light, lay_over, moved, stage
from pipelines.examples.config import PairSettings
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.layout import has_examples
from pipelines.examples.split import split_of
from rigface.conditions import Composer
from rigface.dataset.faces import Faces
from rigface.edits import EditSpec
from rigface.errors import PlanError
from rigface.face.controls.transfer import drawn_edit, targets_of, transfer
from rigface.profile import FaceProfile
from rigface.storage.store import Store
from rigface.types import CROP_PX, Face, FaceParams

NO_HELD_OUT = (
    "no person is held out here (every tenth is, by name), so there is nothing to evaluate on. Add people, or use "
    "--all-people if no model was trained on these"
)
AS_PHOTOGRAPH = np.eye(2, 3, dtype=np.float32)  # from the photograph to the crop, if the crop is the photograph


@dataclass(frozen=True, eq=False)
class Task:
    """A task with its pictures, (512, 512, 3) uint8."""

    planned: PlannedTask
    source: np.ndarray
    target: np.ndarray | None
    truth: np.ndarray | None  # in the source's framing
    truth_shown: np.ndarray | None  # (512, 512) bool, where the true picture is known
    wanted: Callable[[FaceProfile], tuple[Face, FaceParams]]
    """The source of an editor of this profile, whose crop is its photograph, and its coefficients after the edit."""
    time_s: float = 0.0  # of the driving frame
    donor: Callable[[FaceProfile], Face] | None = None  # of a swap


class FacesSource:
    """Tasks of a dataset of faces; PlanError if it is no such dataset."""

    def __init__(self, source: Store) -> None:
        if has_examples(source):
            raise PlanError(
                f"{source.uri} holds examples of `pair`; evaluate on the dataset of faces they were made of"
            )
        faces = Faces(source)
        self._source, self.head = source, faces.head
        self._reader, self._seen = FaceReader(source, self.head), ProfileFaces(self.head, faces.detector.parser)
        self._composer = Composer(plain_conditions(self.head, CROP_PX))

    def plan(self, kinds: Sequence[TaskKind], config: EvaluateConfig) -> list[PlannedTask]:
        """The tasks of these kinds; PlanError if no person is held out."""
        settings = PairSettings()
        gates = (config.min_confidence, settings.min_sharpness, settings.min_face_px)
        frames, places = read_frames(self._source, dict(zip(GATES, gates)))
        usable = np.array([config.all_people or split_of(str(person)) == "test" for person in frames.identity])
        frames = replace(frames, good=frames.good & usable)
        if not frames.good.any():
            raise PlanError(f"{self._source.uri}: {NO_HELD_OUT}")
        sampler = TaskSampler(frames, places, config)
        return [task for kind in kinds for task in sampler.tasks(kind)]

    def task(self, planned: PlannedTask) -> Task | None:
        """Read the pictures of a task; None if its two frames do not lie over each other (the camera moved, a cut)."""
        self._reader.read([place[0] for place in (planned.source, planned.target) if place is not None])
        source = self._reader.face(*planned.source)
        target = None if planned.target is None else self._reader.face(*planned.target)
        if planned.truth and planned.target is not None and target is not None:
            time_s = float(self._reader.key(*planned.target)["time_s"])
            return self._with_truth(planned, source, target, time_s)

        def wanted(profile: FaceProfile) -> tuple[Face, FaceParams]:
            own, head = self._seen(source, profile)
            given = None if target is None else self._seen(target, profile)[0].params
            targets = None if given is None else targets_of(own.params, dict.fromkeys(planned.edit.take, given))
            edit = drawn_edit(own.params, planned.edit, head)
            return replace(own, frame_to_crop=AS_PHOTOGRAPH), transfer(own.params, edit, head, targets)

        task = Task(planned, source.crop, None if target is None else target.crop, None, None, wanted)
        if target is None or "identity" not in planned.edit.take:
            return task
        return replace(task, donor=lambda profile: self._seen(target, profile)[0])

    def _with_truth(self, planned: PlannedTask, source: Face, target: Face, time_s: float) -> Task | None:
        settings = PairSettings()
        if planned.relit:
            random = np.random.default_rng(int(hashlib.sha256(planned.key.encode()).hexdigest()[:12], 16))
            light = invent_light(source.params.light, np.zeros((0, 9, 3), np.float32), random)
            source = stage(source, replace(source.params, light=light.astype(np.float32)), self._composer)
        truth, mask, shown = lay_over(source, target)
        change = background_change(source, truth, np.where(shown, mask, 255).astype(np.uint8))
        if change > settings.max_background_change or shown.mean() < settings.min_overlap:
            return None
        truth = np.where(shown[..., None], truth, source.crop)

        def wanted(profile: FaceProfile) -> tuple[Face, FaceParams]:
            (before, head), (after, _) = (self._seen(face, profile) for face in (source, target))
            if planned.relit:  # one frame: nothing but its light changes
                params = transfer(before.params, planned.edit, head, after.params)
            else:
                params = transfer(before.params, EditSpec(TAKE), head, after.params)
                params = replace(params, camera=moved(before, after))
            return replace(before, frame_to_crop=AS_PHOTOGRAPH), params

        return Task(planned, source.crop, truth, truth, None if shown.all() else shown, wanted, time_s)
