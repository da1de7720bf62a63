"""Examples for a refiner: what it sees of an edit, and the photograph that the edit should become.

Path: a unit of `plan.py` -> `ComposeExamples` -> OUT/examples/<unit>.parquet.

Kinds made of one photograph: the preview gives it something else; the result is analysed anew and is the *source*; the
preview brings it back, which is the *input*; the untouched photograph is the *truth*. So the network learns from people
of whom there is one photograph.

* `restored`: the source has another expression, often another pose or light.
* `turned`: the source is turned by 15 to 40 degrees, so the input shows the seams of strong turns.
* `lids`: the source has its eyes closed, opened, or looking elsewhere.

Kinds made of two; one is the source, the other the truth:

* `pair`: frames of one track.
* `photographs`: pictures of a person from different inputs. Exposures differ for no reason that a network could know,
  so the truth gets the mean colour that the preview has on the face.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch

from pipelines.examples.compose_example import TAKE, between, invent_light, invent_pose, lay_over, moved, stage
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.layout import parquet_bytes, part_path
from pipelines.examples.pair_plan import StagingBank
from pipelines.examples.split import split_of
from pipelines.refine.config import ExampleSettings
from pipelines.refine.plan import DRAWN, Kind, PlannedExample, feature_weights
from rigface.conditions import Composer
from rigface.edits import EditSpec
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.controls.transfer import transfer
from rigface.face.geometry import alignment
from rigface.face.geometry.rotation import from_degrees, to_axis_angle, to_degrees, to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.face.reconstruction.parsers import load_parser
from rigface.image import decode, decode_mask, encode_png
from rigface.profile import OWN, ConditionSpec
from rigface.refiner.preview_refiner import RefinerInputs, TightCrops
from rigface.refiner.regions import REGIONS, regions_of
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import CROP_PX, Face, FaceParams, HeadSpec

IDENTITY_CROP = np.eye(2, 3, dtype=np.float32)
PICTURES = ("preview", "photograph", "geometry", "target", "regions")
POSED, RELIT = 0.5, 0.3  # shares of the staged sources that are also turned, and lit anew
TURN_DEG, MAX_YAW_DEG, FRONTAL_DEG = (15.0, 40.0), 45.0, 10.0
LIDS = (  # axes that move together, and how often they are taken
    (("eyeBlinkLeft", "eyeBlinkRight"), 0.5),
    (("eyeLookOutLeft", "eyeLookInRight"), 0.15),
    (("eyeLookInLeft", "eyeLookOutRight"), 0.15),
    (("eyeLookDownLeft", "eyeLookDownRight"), 0.1),
    (("eyeLookUpLeft", "eyeLookUpRight"), 0.1),
)
GAIN = (0.6, 1.6)  # limits of the gain that gives the truth the preview's colour


@dataclass(frozen=True, eq=False)
class RefinerExample:
    """An example."""

    inputs: RefinerInputs
    target: np.ndarray  # (S, S, 3) uint8, the photograph in the crop of the preview
    regions: np.ndarray  # (S, S) uint8 of `regions.REGIONS`; outside where the photograph does not reach

    @property
    def error(self) -> float:
        """Root mean square error of the preview in mouth and eyes, grey levels: what there is to learn."""
        difference = self.inputs.preview.astype(np.float32) - self.target
        shown = self.regions >= REGIONS.index("eyes")
        return float(np.sqrt(np.square(difference[shown]).mean())) if shown.any() else 0.0


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
        wanted = self.wanted(source, target)
        preview = self._composer.preview(source.crop, source.params, wanted, source.mask)
        square, size = self._crops.square(wanted), self._crops.size
        landmarks = alignment.apply(alignment.compose(square, between(source, target)), target.landmarks)
        reached = alignment.crop(shown.astype(np.uint8) * 255, square, size) > 250
        return RefinerExample(
            inputs=self._crops.inputs(source.crop, source.params, wanted, preview),
            target=alignment.crop(picture, square, size),
            regions=np.where(reached, regions_of(landmarks, size), 0).astype(np.uint8),
        )

    @staticmethod
    def wanted(source: Face, target: Face) -> FaceParams:
        """The coefficients of that edit, for the source's crop."""
        copied = transfer(source.params, EditSpec(TAKE), OpenHead.load().spec, target.params)
        return replace(copied, camera=moved(source, target))

    def photographs(self, source: Face, target: Face) -> RefinerExample:
        """The edit that turns a picture into another one of the same person; the truth in the preview's exposure."""
        whole = (replace(face, frame_to_crop=IDENTITY_CROP) for face in (source, target))
        example = self.pair(*whole)
        face = example.regions >= REGIONS.index("face")
        if not face.any():
            return example
        gain = (example.inputs.preview[face].mean(0) / np.maximum(example.target[face].mean(0), 1)).clip(*GAIN)
        return replace(example, target=(example.target * gain + 0.5).clip(0, 255).astype(np.uint8))

    def staged(self, kind: Kind, face: Face, bank: StagingBank, random: np.random.Generator) -> RefinerExample | None:
        """The edit that brings a photograph back from an invented one; None if that one shows no face."""
        own = face.params
        if kind == "turned":
            params = turned(own, random)
        else:
            params = invent_pose(own, np.zeros((0, 0)), random) if random.random() < POSED else own
        if kind == "lids":
            expression = with_other_lids(own.expression, OpenHead.load().spec.expression_names, random)
        else:
            others = bank.expressions[random.integers(len(bank.expressions), size=DRAWN - 1)]
            change = np.abs(others - own.expression) @ feature_weights(OpenHead.load().spec.expression_names)
            expression = own.expression + random.uniform(0.5, 1.1) * (others[int(change.argmax())] - own.expression)
        params = replace(params, expression=expression.astype(np.float32))
        if random.random() < RELIT:
            params = replace(params, light=invent_light(own.light, bank.lights, random).astype(np.float32))
        target = replace(face, frame_to_crop=IDENTITY_CROP)
        faces = self._analyzer(stage(target, params, self._composer).crop)
        if not faces:
            return None
        return self.pair(max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2]))), target)

    def planned(
        self, kind: Kind, source: Face, target: Face, bank: StagingBank, random: np.random.Generator
    ) -> RefinerExample | None:
        """An example of any kind."""
        if kind == "pair":
            return self.pair(source, target)
        return self.photographs(source, target) if kind == "photographs" else self.staged(kind, target, bank, random)


def turned(own: FaceParams, random: np.random.Generator) -> FaceParams:
    """The coefficients turned aside by `TURN_DEG`; heads that look aside are turned to the front or beyond."""
    degrees = to_degrees(to_matrix(own.head_rotation[None]))[0]
    side = -np.sign(degrees[0]) if abs(degrees[0]) > FRONTAL_DEG else random.choice([-1, 1])
    degrees[0] = np.clip(degrees[0] + side * random.uniform(*TURN_DEG), -MAX_YAW_DEG, MAX_YAW_DEG)
    rotation = to_axis_angle(from_degrees(degrees[None].astype(np.float32)))[0]
    return replace(own, head_rotation=rotation.astype(np.float32))


def with_other_lids(own: np.ndarray, axes: Sequence[str], random: np.random.Generator) -> np.ndarray:
    """(E,) an expression with lids or gaze moved: to an extreme, or back from it where they are there."""
    chosen = LIDS[random.choice(len(LIDS), p=[share for _, share in LIDS])][0]
    moved, expression = [axes.index(name) for name in chosen], own.copy()
    expression[moved] = 0.0 if own[moved].mean() > 0.5 else random.uniform(0.6, 1.0)
    return expression


class ComposeExamples:
    """The worker: a unit of planned examples in, one object of examples/ out."""

    def __init__(self, faces: str, out: str, settings: ExampleSettings, head: HeadSpec, bank: StagingBank) -> None:
        cv2.setNumThreads(1)  # the actors are the parallelism
        torch.set_num_threads(1)
        self._out, self._settings, self._bank = lock.follow(Store(out)), settings, bank
        self._faces, self._composer = FaceReader(Store(faces), head), ExampleComposer(settings.size)
        self._parser = load_parser(OWN.parser)  # masks as edits have them, whatever the dataset's are

    def __call__(self, unit: str, plan: list[PlannedExample]) -> dict[str, int]:
        """Do one unit; counts of examples made and of those without a face."""
        rows = []
        self._faces.read({part for p in plan for part in (p.source_part, p.target_part)})
        for planned in plan:
            target = self._face(planned.target_part, planned.target_row)
            source = self._face(planned.source_part, planned.source_row)
            random = np.random.default_rng(planned.seed)
            example = self._composer.planned(planned.kind, source, target, self._bank, random)
            if example is None:
                continue
            split = split_of(planned.person, self._settings.held_out_fraction)
            rows.append({"identity": planned.person, "split": split, "kind": planned.kind, **cells_of(example)})
        if rows:
            self._out.publish(part_path(unit), parquet_bytes(pa.Table.from_pylist(rows)), replace=False)
        return {"units": 1, "examples": len(rows), "without a face": len(plan) - len(rows)}

    def _face(self, part: str, row: int) -> Face:
        face = self._faces.face(part, row)
        return replace(face, mask=self._parser(face.crop, face.landmarks))


def cells_of(example: RefinerExample) -> dict[str, Any]:
    """The columns of an example: PNGs by name, the codes, and the preview's error in mouth and eyes."""
    pictures = {**vars(example.inputs), "target": example.target, "regions": example.regions}
    return {name: encode_png(pictures[name]) for name in PICTURES} | {
        "code": example.inputs.code.tolist(), "error": example.error,
    }  # fmt: skip


def examples_of(rows: Iterable[dict[str, Any]]) -> list[RefinerExample]:
    """The inverse of `cells_of`, row by row."""
    examples = []
    for row in rows:
        pictures = {name: decode(row[name]) for name in ("preview", "photograph", "geometry")}
        regions, code = decode_mask(row["regions"]), np.array(row["code"], np.float32)
        inputs = RefinerInputs(**pictures, code=code, regions=regions)
        examples.append(RefinerExample(inputs, decode(row["target"]), regions))
    return examples
