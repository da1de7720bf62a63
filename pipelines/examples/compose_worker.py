"""The worker of `pair`: rows of faces/ in, one object of examples/ out.

Path: a unit of the plan -> rows read back as `Face`s -> `make` -> OUT/examples/<unit>.parquet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.examples import pair_sampling
from pipelines.examples.compose_example import ComposedExample, invent_light, invent_pose, make, staged
from pipelines.examples.config import PairSettings
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.layout import part_path
from rigface import schema
from rigface.conditions import Composer
from rigface.examples import ExampleSpec, examples_schema, mirrored_expression
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.image import encode_jpeg, encode_png
from rigface.storage.store import Store
from rigface.types import Face


class ComposeUnit:
    """Composes units of examples. One per actor.

    Args:
        faces, out: uris.
        spec: of the examples, as JSON.
        lights, expressions: (N, 9, 3) and (N, E) of other photographs, for inventing.
    """

    def __init__(
        self, faces: str, out: str, settings: PairSettings, spec: str, lights: list, expressions: list
    ) -> None:
        import cv2
        import torch

        cv2.setNumThreads(1)  # the actors are the parallelism
        # Tensors of a few thousand numbers: on a busy machine threads made it 2.5 times slower.
        torch.set_num_threads(1)
        self._out, self._settings = Store(out), settings
        self.spec = ExampleSpec.of(pa.schema([], metadata={"rigface.examples": spec}))
        self._composer = Composer(settings.style, settings.size)  # type: ignore[arg-type]
        self._lights = np.array(lights, np.float32).reshape(-1, 9, 3)
        self._faces = FaceReader(Store(faces), self.spec.head)
        self._expressions = np.array(expressions, np.float32).reshape(len(expressions), -1)

    def __call__(self, unit: str, plan: dict[str, Any]) -> dict[str, int]:
        """Do one unit; how many examples came of it, and how many were refused."""
        rows: dict[str, list[Any]] = {name: [] for name in examples_schema(self.spec).names}
        examples = plan["examples"]
        self._faces.read({p[f"{who}_part"] for p in examples for who in ("source", "target")})
        for one in examples:
            source, target = (self._faces.face(one[f"{who}_part"], one[f"{who}_row"]) for who in ("source", "target"))
            source = self._staged(one, source)
            made = make(source, target, self._composer, self.spec.head)
            if self._refused(made):
                continue
            for name, value in self._row(one, source, target, made).items():
                rows[name].append(value)
        table = schema.table_of(rows, examples_schema(self.spec))
        self._out.publish(part_path(unit), parquet_of(table), replace=False)
        return {"examples": len(table), "refused": len(examples) - len(table), "units": 1}

    def _staged(self, one: dict[str, Any], face: Face) -> Face:
        """The source, under an invented light and in an invented pose where the plan says so."""
        random = np.random.default_rng(int(one["example"][:12], 16))
        params = face.params
        if one["relit"]:
            params = replace(params, light=invent_light(params.light, self._lights, random).astype(np.float32))
        if one["posed"]:
            params = invent_pose(params, self._expressions, random)
        return face if params is face.params else staged(face, params, self._composer)

    def _refused(self, made: ComposedExample) -> bool:
        settings = self._settings
        return made.covered < settings.min_overlap or made.background_change > settings.max_background_change

    def _row(self, one: dict[str, Any], source: Face, target: Face, made: ComposedExample) -> dict[str, Any]:
        conditions = made.composed.conditions
        pictures = {
            "reference": conditions.reference,
            "background": conditions.background,
            "render": conditions.render,
            "target": made.target,
        }
        code = np.asarray(conditions.expression_code)
        asked = to_degrees(to_matrix(made.wanted.head_rotation[None]))[0]
        before = to_degrees(to_matrix(source.params.head_rotation[None]))[0]
        differ = _deltas(source, target)
        turn = asked[0] - before[0]
        if one["mirrored"]:
            pictures = {name: np.ascontiguousarray(p[:, ::-1]) for name, p in pictures.items()}
            code = code[mirrored_expression(self.spec.head.expression_names)]
            asked, turn = asked * (-1, 1, -1), -turn
        values: dict[str, Any] = {name: self._encoded(p) for name, p in pictures.items()}
        for who in ("source", "target"):
            key = self._faces.key(one[f"{who}_part"], one[f"{who}_row"])
            values |= {f"{who}_{name}": key[name] for name in ("uri", "frame_index", "track")}
        return values | {
            "example": one["example"],
            "split": one["split"],
            "identity": one["identity"],
            "kind": "posed" if one["posed"] else "relit" if one["relit"] else "pair",
            "mirrored": one["mirrored"],
            "take": ",".join(sorted(name for name, edges in pair_sampling.EDGES.items() if differ[name] >= edges[0])),
            "delta_yaw_deg": turn,
            "delta_pose_deg": differ["pose"],
            "delta_expression": differ["expression"],
            "delta_light": differ["light"],
            "yaw_deg": asked[0],
            "pitch_deg": asked[1],
            "roll_deg": asked[2],
            "mask": encode_png(np.ascontiguousarray(made.mask[:, ::-1]) if one["mirrored"] else made.mask),
            "expression_code": code.astype(np.float32),
            "caption": one.get("caption"),  # a plan of before there were captions has none
        }

    def _encoded(self, picture: np.ndarray) -> bytes:
        return encode_jpeg(picture, self._settings.jpeg_quality) if self._settings.jpeg_quality else encode_png(picture)


def _deltas(source: Face, target: Face) -> dict[str, float]:
    """How far apart the two are by trait."""
    a, b = source.params, target.params
    none = np.zeros(2)
    two = pair_sampling.Frames(
        identity=none, uri=none, track=none, index=none, zoom=none, good=none, vectors=none,
        rotation=to_matrix(np.stack([a.head_rotation, b.head_rotation])),
        expression=np.stack([a.expression, b.expression]),
        light=np.stack([a.light, b.light]),
    )  # fmt: skip
    return {name: float(v[0]) for name, v in pair_sampling.deltas(two, np.array([0]), np.array([1])).items()}


def parquet_of(table: pa.Table) -> pa.Buffer:
    """An object of examples as bytes: pictures are compressed already, and rows are read one by one."""
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=len(table) or 1, compression="zstd", use_dictionary=["split", "identity"]
    )
    return sink.getvalue()
