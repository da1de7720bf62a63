"""Evaluation tasks: edits of held-out people, and the pictures they begin with.

Path: OUT/examples or OUT/faces -> `ExamplesSource.plan`, `FacesSource.plan` -> `PlannedTask`s (small, sent to workers)
-> `task` -> `Task`, which gives conditions in the style and size of any model.

* self-edit: two frames of one person in one input; the second is the truth.
* cross-identity: pose, expression or light of another person.
* sweep: one number over seven values, on each person's most frontal frame.
* clip: the frames of one track drive its first frame; each frame is the truth.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipelines.evaluate.config import TASK_KINDS, EvaluateConfig, TaskKind
from pipelines.evaluate.planned_task import SELF_EDITS, PlannedTask
from pipelines.evaluate.profile_faces import ProfileFaces, plain_conditions
from pipelines.evaluate.task_sampler import TaskSampler
from pipelines.examples import held_out
from pipelines.examples.compose_example import compose, invent_light, stage
from pipelines.examples.config import PairSettings
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.layout import detector_of, has_examples, head_of, parts_of, spec_of
from pipelines.examples.split import split_of
from rigface.conditions import Composer
from rigface.edits import EditSpec
from rigface.errors import PlanError
from rigface.examples import examples_of
from rigface.face.controls.transfer import targets_of, transfer
from rigface.profile import ConditionSpec
from rigface.storage.store import Store
from rigface.types import Conditions, Face, HeadSpec

NO_HELD_OUT = (
    "no person is held out here (every tenth is, by name), so there is nothing to evaluate on. Add people, or use "
    "--all-people if no model was trained on these"
)


@dataclass(frozen=True, eq=False)
class Task:
    """A task with its pictures, (S, S, 3) uint8."""

    planned: PlannedTask
    source: np.ndarray
    target: np.ndarray | None
    truth: np.ndarray | None  # in the source's framing
    conditions: Callable[[ConditionSpec], Conditions]  # the task for a model that takes these
    time_s: float = 0.0  # of the driving frame


class TaskSource(Protocol):
    """A folder that tasks are made of."""

    kinds: tuple[TaskKind, ...]
    head: HeadSpec

    def plan(self, kinds: Sequence[TaskKind], config: EvaluateConfig) -> list[PlannedTask]:
        """The tasks of these kinds; PlanError if no person is held out."""

    def task(self, planned: PlannedTask) -> Task | None:
        """Read the pictures of a task; None if its two frames do not lie over each other (the camera moved, a cut)."""


def source_of(data: Store, size: int = 0) -> TaskSource:
    """The tasks of a folder: of its examples, or else of its faces, with true pictures of `size` px (0: the crops')."""
    return ExamplesSource(data) if has_examples(data) else FacesSource(data, size)


class ExamplesSource:
    """Tasks of a folder that `pair` wrote: self-edits with ready-made conditions and truth."""

    kinds: tuple[TaskKind, ...] = ("self",)

    def __init__(self, source: Store) -> None:
        self._source, self._parts = source, parts_of(source)
        self.head = spec_of(source, self._parts).head
        self._tables: dict[str, pa.Table] = {}

    def plan(self, kinds: Sequence[TaskKind], config: EvaluateConfig) -> list[PlannedTask]:
        """Self-edits, people in turns, in no order within a person (names are hashes)."""
        rows = held_out.rows_of(self._source, self._parts, None if config.all_people else "test")
        in_turns = [row for row in held_out.in_turns(rows, lambda row: row.example) if row.take]
        rows = _balanced(in_turns, config.limit)
        if not rows:
            raise PlanError(f"{self._source.uri}: {NO_HELD_OUT}")
        return [
            PlannedTask(
                kind="self",
                name=SELF_EDITS[row.kind],
                key=row.example,
                person=row.identity,
                edit=EditSpec.from_dict({"take": row.take.split(",")}),
                source=(row.part, row.row),
                truth=True,
                example=True,
            )
            for row in rows
        ]

    def task(self, planned: PlannedTask) -> Task:
        part, number = planned.source
        if part not in self._tables:
            self._tables = {part: self._source.table(part)}
        example = examples_of(self._tables[part].slice(number, 1))
        conditions, truth = example.conditions.map(lambda a: a[0]), example.target[0]
        return Task(planned, conditions.reference, truth, truth, lambda spec: conditions)


def _balanced(rows: list[held_out.ExampleRow], limit: int) -> list[held_out.ExampleRow]:
    """At least half of them pairs of two photographs, if there are so many; the rest shared by staged ones."""
    kinds = {kind: [row for row in rows if row.kind == kind] for kind in SELF_EDITS}
    share = limit // (2 * (len(kinds) - 1))
    staged = [row for kind in kinds if kind != "pair" for row in kinds[kind][:share]]
    chosen = kinds["pair"][: limit - len(staged)] + staged
    names = {row.example for row in chosen}
    return (chosen + [row for row in rows if row.example not in names])[:limit]


class FacesSource:
    """Tasks of a dataset of faces, of all kinds; conditions are composed in each model's style."""

    kinds = TASK_KINDS

    def __init__(self, source: Store, size: int = 0) -> None:
        self._source, self._size, self.head = source, size, head_of(source)
        self._reader, self._seen = FaceReader(source, self.head), ProfileFaces(self.head, detector_of(source).parser)
        self._composer = cache(Composer)

    def plan(self, kinds: Sequence[TaskKind], config: EvaluateConfig) -> list[PlannedTask]:
        settings = PairSettings()
        gates = (settings.min_confidence, settings.min_sharpness, settings.min_face_px)
        frames, places = read_frames(self._source, dict(zip(GATES, gates)))
        usable = np.array([config.all_people or split_of(str(person)) == "test" for person in frames.identity])
        frames = replace(frames, good=frames.good & usable)
        if not frames.good.any():
            raise PlanError(f"{self._source.uri}: {NO_HELD_OUT}")
        sampler = TaskSampler(frames, places, config)
        return [task for kind in kinds for task in sampler.tasks(kind)]

    def task(self, planned: PlannedTask) -> Task | None:
        self._reader.read([place[0] for place in (planned.source, planned.target) if place is not None])
        source = self._reader.face(*planned.source)
        target = None if planned.target is None else self._reader.face(*planned.target)
        if planned.truth and planned.target is not None and target is not None:
            time_s = float(self._reader.key(*planned.target)["time_s"])
            return self._with_truth(planned, source, target, time_s)

        def conditions(spec: ConditionSpec) -> Conditions:
            own, head = self._seen(source, spec.profile)
            given = None if target is None else self._seen(target, spec.profile)[0].params
            targets = None if given is None else targets_of(own.params, dict.fromkeys(planned.edit.take, given))
            return self._composer(spec)(own, transfer(own.params, planned.edit, head, targets)).conditions

        return Task(planned, source.crop, None if target is None else target.crop, None, conditions)

    def _with_truth(self, planned: PlannedTask, source: Face, target: Face, time_s: float) -> Task | None:
        settings, size = PairSettings(), self._size or len(source.crop)
        own = self._composer(plain_conditions(self.head, size))
        if planned.relit:
            random = np.random.default_rng(int(hashlib.sha256(planned.key.encode()).hexdigest()[:12], 16))
            light = invent_light(source.params.light, np.zeros((0, 9, 3), np.float32), random)
            source = stage(source, replace(source.params, light=light.astype(np.float32)), own)
        example = compose(source, target, own, self.head)
        if example.background_change > settings.max_background_change or example.overlap < settings.min_overlap:
            return None

        def conditions(spec: ConditionSpec) -> Conditions:
            (before, head), (after, _) = (self._seen(face, spec.profile) for face in (source, target))
            return compose(before, after, self._composer(spec), head).composed.conditions

        reference = example.composed.conditions.reference
        return Task(planned, reference, example.target, example.target, conditions, time_s)
