"""The worker of `pair`: rows of faces/ in, one object of examples/ out.

Path: a unit of the plan -> rows read back as `Face`s -> `compose` -> OUT/examples/<unit>.parquet.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch

from pipelines.examples import pair_sampling
from pipelines.examples.compose_example import ComposedExample, compose, invent_light, invent_pose, stage
from pipelines.examples.config import PairSettings
from pipelines.examples.described import caption_of
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.layout import parquet_bytes, part_path
from pipelines.examples.pair_plan import PlannedExample, StagingBank, parts_behind
from rigface import schema
from rigface.conditions import Composer
from rigface.examples import IDENTITY, REGIONS, ExampleSpec, examples_schema
from rigface.face.controls.mirror import code_mirror
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.image import encode_jpeg, encode_png
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import Face

KEY = ("uri", "frame_index", "track")


class ComposeUnit:
    """Composes units of examples. One per actor. `bank` is what invented sources borrow."""

    def __init__(self, faces: str, out: str, settings: PairSettings, spec: ExampleSpec, bank: StagingBank) -> None:
        cv2.setNumThreads(1)  # the actors are the parallelism
        # Tensors of a few thousand numbers: on a busy machine threads made it 2.5 times slower.
        torch.set_num_threads(1)
        self._out, self._settings = lock.follow(Store(out)), settings
        self.spec, self._bank = spec, bank
        self._composer = Composer(spec.conditions)
        self._mirror = code_mirror(spec.expression_field, spec.head) if settings.mirrored_fraction else None
        self._faces = FaceReader(Store(faces), spec.head)

    def __call__(self, unit: str, plan: Sequence[PlannedExample]) -> dict[str, int]:
        """Do one unit; counts of examples made and refused."""
        rows: dict[str, list[Any]] = {name: [] for name in examples_schema(self.spec).names}
        self._faces.read(parts_behind(plan))
        for planned in plan:
            source, target = self._staged(planned, self._faces.face(*planned.source)), self._faces.face(*planned.target)
            composed = compose(source, target, self._composer, self.spec.head)
            if (
                composed.overlap < self._settings.min_overlap
                or composed.background_change > self._settings.max_background_change
            ):
                continue
            for name, value in self._row(planned, source, target, composed).items():
                rows[name].append(value)
        table = schema.table_of(rows, examples_schema(self.spec))
        self._out.publish(part_path(unit), parquet_bytes(table), replace=False)
        return {"examples": len(table), "refused": len(plan) - len(table), "units": 1}

    def _staged(self, planned: PlannedExample, face: Face) -> Face:
        """The source, under an invented light and in an invented pose if the plan says so."""
        random = np.random.default_rng(int(planned.example[:12], 16))
        params = face.params
        if planned.relit:
            params = replace(params, light=invent_light(params.light, self._bank.lights, random).astype(np.float32))
        if planned.posed:
            params = invent_pose(params, self._bank.expressions, random)
        return face if params is face.params else stage(face, params, self._composer)

    def _described(self, planned: PlannedExample, composed: ComposedExample) -> str | None:
        """A caption by the numbers of the target, if the settings ask for one."""
        if not self._settings.describe:
            return None
        random = np.random.default_rng([int(planned.example[:12], 16), 1])
        return caption_of(composed.wanted, self.spec.head, random, planned.mirrored)

    def _row(self, planned: PlannedExample, source: Face, target: Face, composed: ComposedExample) -> dict[str, Any]:
        conditions = composed.composed.conditions
        pictures = {
            "reference": conditions.reference,
            "background": conditions.background,
            "render": conditions.render,
            "target": composed.target,
            "mask": composed.mask,
            REGIONS: composed.regions,
        }
        code = np.asarray(conditions.expression_code)
        wanted = to_degrees(to_matrix(composed.wanted.head_rotation[None]))[0]
        turn = wanted[0] - to_degrees(to_matrix(source.params.head_rotation[None]))[0, 0]
        deltas = _deltas(source, target)
        if planned.mirrored and self._mirror is not None:
            pictures = {name: np.ascontiguousarray(p[:, ::-1]) for name, p in pictures.items()}
            code = self._mirror(code)
            wanted, turn = wanted * (-1, 1, -1), -turn
        masks = {name: encode_png(pictures.pop(name)) for name in ("mask", REGIONS)}
        quality = self._settings.jpeg_quality
        source_key, target_key = self._faces.key(*planned.source), self._faces.key(*planned.target)
        return {
            **{name: encode_jpeg(p, quality) if quality else encode_png(p) for name, p in pictures.items()},
            **{f"source_{name}": source_key[name] for name in KEY},
            **{f"target_{name}": target_key[name] for name in KEY},
            "example": planned.example,
            "split": planned.split,
            "identity": planned.identity,
            "kind": "posed" if planned.posed else "relit" if planned.relit else "pair",
            "mirrored": planned.mirrored,
            "take": ",".join(sorted(name for name, edges in pair_sampling.EDGES.items() if deltas[name] >= edges[0])),
            "delta_yaw_deg": turn,
            "delta_pose_deg": deltas["pose"],
            "delta_expression": deltas["expression"],
            "delta_light": deltas["light"],
            "yaw_deg": wanted[0],
            "pitch_deg": wanted[1],
            "roll_deg": wanted[2],
            **masks,
            "expression_code": code.astype(np.float32),
            "caption": planned.caption or self._described(planned, composed),
            **({} if conditions.identity is None else {IDENTITY: conditions.identity.tolist()}),
        }


def _deltas(source: Face, target: Face) -> dict[str, float]:
    """Distances of the two faces by trait."""
    a, b = source.params, target.params
    unused = np.zeros(2)
    frames = pair_sampling.Frames(
        identity=unused, uri=unused, track=unused, index=unused, zoom=unused, good=unused, vectors=unused,
        rotation=to_matrix(np.stack([a.head_rotation, b.head_rotation])),
        expression=np.stack([a.expression, b.expression]),
        light=np.stack([a.light, b.light]),
    )  # fmt: skip
    return {name: float(v[0]) for name, v in pair_sampling.deltas(frames, np.array([0]), np.array([1])).items()}
