"""Examples for a refiner: what it sees of an edit, and the photograph that the edit should become.

Path: rows of OUT/faces -> `plan_examples` -> units -> `ComposeExamples` -> OUT/examples/<unit>.parquet.

Two kinds:

* `restored`: the preview gives a photograph another expression, pose or light. The result is analysed anew and is the
  *source*; the preview brings it back, which is the *input*; the untouched photograph is the *truth*. So the network
  learns from people of whom there is one photograph.
* `pair`: two frames of a person in one input; one is the source, the other the truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import torch

from pipelines.cluster.unit_job import Unit, unit_name
from pipelines.examples.compose_example import TAKE, between, invent_light, invent_pose, lay_over, moved, stage
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.layout import parquet_bytes, part_path
from pipelines.examples.pair_plan import StagingBank
from pipelines.examples.pair_sampling import Frames
from pipelines.examples.split import split_of
from pipelines.refine.config import ExampleSettings
from rigface.conditions import Composer
from rigface.edits import EditSpec
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.controls.transfer import transfer
from rigface.face.geometry import alignment
from rigface.face.head.open_head import OpenHead
from rigface.image import decode, decode_mask, encode_png
from rigface.profile import ConditionSpec
from rigface.refiner.preview_refiner import RefinerInputs, TightCrops
from rigface.refiner.regions import features_of, regions_of
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import CROP_PX, Face, HeadSpec

IDENTITY_CROP = np.eye(2, 3, dtype=np.float32)
PICTURES = ("preview", "photograph", "geometry", "target", "regions")
DRAWN = 4  # partners drawn for a pair; the one whose expression differs most is taken
POSED, RELIT = 0.5, 0.3  # shares of the restored examples that are also turned, and lit anew


@dataclass(frozen=True)
class PlannedExample:
    """One example to be made."""

    kind: Literal["restored", "pair"]
    person: str
    source_part: str  # object of faces/
    source_row: int
    target_part: str
    target_row: int
    seed: int


@dataclass(frozen=True, eq=False)
class RefinerExample:
    """An example."""

    inputs: RefinerInputs
    target: np.ndarray  # (S, S, 3) uint8, the photograph in the crop of the preview
    regions: np.ndarray  # (S, S) uint8 of `regions.REGIONS`; outside where the photograph does not reach


def plan_examples(frames: Frames, places: np.ndarray, settings: ExampleSettings) -> list[PlannedExample]:
    """Every example of a dataset; `places` (N, 2) are part and row of each of the frames."""
    random = np.random.default_rng([settings.seed, 3])
    tracks: dict[tuple[str, int], list[int]] = {}
    for row in np.flatnonzero(frames.good):
        tracks.setdefault((str(frames.uri[row]), int(frames.track[row])), []).append(int(row))
    planned = []
    for rows in tracks.values():
        used = [rows[k] for k in np.linspace(0, len(rows) - 1, min(len(rows), settings.max_frames)).astype(int)]
        for row in used:
            alone = settings.restored if len(used) < DRAWN else min(settings.restored, 1)
            partners = [row] * alone
            for _ in range(settings.pairs if len(used) > 1 else 0):
                drawn = [r for r in random.choice(used, min(DRAWN, len(used)), replace=False) if r != row]
                change = np.abs(frames.expression[drawn] - frames.expression[row]).sum(1)
                partners.append(int(drawn[int(change.argmax())]))
            for partner in partners:
                planned.append(
                    PlannedExample(
                        kind="restored" if partner == row else "pair",
                        person=str(frames.identity[row]),
                        source_part=places[partner, 0],
                        source_row=int(places[partner, 1]),
                        target_part=places[row, 0],
                        target_row=int(places[row, 1]),
                        seed=int(random.integers(2**32)),
                    )
                )
    return planned


def units_of(planned: list[PlannedExample], settings_hash: str, size: int) -> list[Unit[list[PlannedExample]]]:
    """The examples in units of `size`."""
    groups = [planned[start : start + size] for start in range(0, len(planned), size)]
    return [Unit(unit_name(settings_hash, *(str(asdict(p)) for p in group)), group) for group in groups]


class ExampleComposer:
    """Composes examples, with the analyzer and the preview of the product."""

    def __init__(self, size: int) -> None:
        self._composer = Composer(ConditionSpec(size=CROP_PX))
        self._crops = TightCrops(size)

    @cached_property
    def _analyzer(self) -> FaceAnalyzer:
        return FaceAnalyzer.load()

    def pair(self, source: Face, target: Face) -> RefinerExample:
        """The edit that turns a frame into another one of the same input."""
        picture, _, shown = lay_over(source, target)
        wanted = transfer(source.params, EditSpec(TAKE), OpenHead.load().spec, target.params)
        wanted = replace(wanted, camera=moved(source, target))
        preview = self._composer.preview(source.crop, source.params, wanted, source.mask)
        square, size = self._crops.square(wanted), self._crops.size
        landmarks = alignment.apply(alignment.compose(square, between(source, target)), target.landmarks)
        reached = alignment.crop(shown.astype(np.uint8) * 255, square, size) > 250
        return RefinerExample(
            inputs=self._crops.inputs(source.crop, source.params, wanted, preview),
            target=alignment.crop(picture, square, size),
            regions=np.where(reached, regions_of(landmarks, size), 0).astype(np.uint8),
        )

    def restored(self, face: Face, bank: StagingBank, random: np.random.Generator) -> RefinerExample | None:
        """The edit that brings a photograph back from an invented one; None if that one shows no face."""
        own = face.params
        params = invent_pose(own, np.zeros((0, 0)), random) if random.random() < POSED else own
        others = bank.expressions[random.integers(len(bank.expressions), size=DRAWN - 1)]
        other = others[int(np.abs(others - own.expression).sum(1).argmax())]
        expression = own.expression + random.uniform(0.5, 1.1) * (other - own.expression)
        params = replace(params, expression=expression.astype(np.float32))
        if random.random() < RELIT:
            params = replace(params, light=invent_light(own.light, bank.lights, random).astype(np.float32))
        target = replace(face, frame_to_crop=IDENTITY_CROP)
        faces = self._analyzer(stage(target, params, self._composer).crop)
        if not faces:
            return None
        return self.pair(max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2]))), target)


class ComposeExamples:
    """The worker: a unit of planned examples in, one object of examples/ out."""

    def __init__(self, faces: str, out: str, settings: ExampleSettings, head: HeadSpec, bank: StagingBank) -> None:
        cv2.setNumThreads(1)  # the actors are the parallelism
        torch.set_num_threads(1)
        self._out, self._settings, self._bank = lock.follow(Store(out)), settings, bank
        self._faces, self._composer = FaceReader(Store(faces), head), ExampleComposer(settings.size)

    def __call__(self, unit: str, plan: list[PlannedExample]) -> dict[str, int]:
        """Do one unit; counts of examples made and of those without a face."""
        rows = []
        self._faces.read({part for p in plan for part in (p.source_part, p.target_part)})
        for planned in plan:
            target = self._faces.face(planned.target_part, planned.target_row)
            if planned.kind == "pair":
                example = self._composer.pair(self._faces.face(planned.source_part, planned.source_row), target)
            else:
                random = np.random.default_rng(planned.seed)
                made = self._composer.restored(target, self._bank, random)
                if made is None:
                    continue
                example = made
            split = split_of(planned.person, self._settings.held_out_fraction)
            rows.append({"identity": planned.person, "split": split, "kind": planned.kind, **cells_of(example)})
        if rows:
            self._out.publish(part_path(unit), parquet_bytes(pa.Table.from_pylist(rows)), replace=False)
        return {"units": 1, "examples": len(rows), "without a face": len(plan) - len(rows)}


def cells_of(example: RefinerExample) -> dict[str, Any]:
    """The columns of an example: PNGs by name, and the codes."""
    pictures = {**vars(example.inputs), "target": example.target, "regions": example.regions}
    return {name: encode_png(pictures[name]) for name in PICTURES} | {"code": example.inputs.code.tolist()}


def examples_of(rows: Iterable[dict[str, Any]]) -> list[RefinerExample]:
    """The inverse of `cells_of`, row by row."""
    examples = []
    for row in rows:
        pictures = {name: decode(row[name]) for name in ("preview", "photograph", "geometry")}
        regions, code = decode_mask(row["regions"]), np.array(row["code"], np.float32)
        inputs = RefinerInputs(**pictures, code=code, features=features_of(regions))
        examples.append(RefinerExample(inputs, decode(row["target"]), regions))
    return examples
