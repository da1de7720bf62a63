"""The stages: each wraps one verb of `rigface` and adds columns to the faces of a unit.

Path: Ray row -> StageActor(look) -> StageActor(reconstruct, finish, write) or one actor each -> a tiny record per unit.

A stage never drops a face and never raises for a bad one: it says so in `status` and `reason` and leaves its columns null.
Only data errors become rows (`BadInput`, a singular matrix, numbers that are not finite); anything else is a bug of ours
and stops the job. `needs` and `adds` are checked by `plan.check` before a cluster is touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from pipelines.extract import components
from pipelines.extract.config import Settings
from pipelines.extract.layout import _QUALITY, error_path, parquet, part_path, with_record
from pipelines.extract.quarantine import Quarantine
from pipelines.extract.unit import Unit
from pipelines.telemetry import metrics
from pipelines.telemetry.worker_process import WorkerDied, WorkerProcess
from rigface import schema
from rigface.errors import BadInput
from rigface.face.steps import AlignedFaces, reconstruct, segment
from rigface.image import encode_png
from rigface.storage.store import Store
from rigface.types import DetectorSpec, FaceParams, HeadSpec, Quality

TRIES = 2  # a crash may be the machine's; two on the same file are the file's
BAD_FACE = (BadInput, np.linalg.LinAlgError)

_RESIDUALS = ("_landmark_residual", "_photometric_residual", "_occlusion")
_ALIGNED = ("status", "crop", "landmarks", "box", "frame_to_crop", "_score", "blendshapes")
_PARAMS = tuple(f.name for f in fields(FaceParams))


class Stage(Protocol):
    """One step of the job."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    adds: ClassVar[tuple[str, ...]]

    def __call__(self, unit: Unit) -> None: ...


class DetectFaces:
    """Frames -> faces: decode, detect, track, align, crop, identity. In a child process that may crash."""

    name = "look"
    needs = ()
    adds = (
        *("frame_index", "time_s", "track", "status", "reason", "box", "frame_to_crop", "landmarks", "blendshapes"),
        *("identity_vector", "crop", "_score"),
    )

    def __init__(self, settings: Settings, silence_s: float, out: str) -> None:
        self._child = WorkerProcess(
            "pipelines.extract.frame_processor:FrameProcessor", {"settings": settings}, silence_s
        )
        self._child.start()
        self._deaths = Quarantine(Store(out))

    def __call__(self, unit: Unit) -> None:
        if verdict := self._deaths.verdict(unit.unit_id, unit.plan):
            unit.record.update(status="error", **verdict)
            unit.record["reason"] = f"not tried, because of other parts of it: {verdict['reason']}"
            return
        for left in reversed(range(TRIES)):
            try:
                record, blob = self._child((unit.plan, dict(unit.record)))
            except WorkerDied as died:
                metrics.tell(metrics.CRASHES, step=_blamed(died.step))
                if not left:
                    unit.record.update(status="error", stage=_blamed(died.step), crash=died.how)
                    unit.record["reason"] = f"{_blamed(died.step)} crashed {TRIES} times on it: {died.how}"
                    self._deaths.add(unit.unit_id, unit.plan, unit.record)
                continue
            unit.record.update(record)
            unit.set_faces(blob)
            return


def _blamed(step: str) -> str:
    return step or "decode"


class Reconstruct:
    """Crops -> coefficients, all faces of a unit at once, so that a track can share what is one person's."""

    name = "reconstruct"
    needs = (*_ALIGNED, "track")
    adds = (*_PARAMS, *_RESIDUALS)

    def __init__(self, settings: Settings, device: str) -> None:
        self._reconstructor = components.reconstructor(settings, device)

    def __call__(self, unit: Unit) -> None:
        rows = unit.good
        if not len(rows):
            return
        with unit.timed(self.name):
            fit = reconstruct(self._reconstructor, _aligned(unit, rows), unit["track"].to_numpy()[rows])
            numbers = {name: getattr(fit.params, name) for name in _PARAMS}
            numbers |= {name: getattr(fit, name[1:]) for name in _RESIDUALS}
            flat = {name: value.reshape(len(rows), -1) for name, value in numbers.items() if value is not None}
            finite = np.all([np.isfinite(value).all(1) for value in flat.values()], axis=0)
            for row in rows[~finite]:
                unit.fail(int(row), self.name, "its coefficients are not finite")
            unit.add({name: schema.column(v[finite], v.shape[1]) for name, v in flat.items()}, rows[finite])


class MaskAndScore:
    """The person's mask, and how far to trust the row."""

    name = "finish"
    needs = (*_ALIGNED, "head_rotation", *_RESIDUALS)
    adds = ("mask", *_QUALITY)

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self._parser, self._assess = components.parser(settings, device), components.assess(settings)

    def __call__(self, unit: Unit) -> None:
        from rigface.face.geometry.rotation import to_degrees, to_matrix  # torch stays out of the driver

        rows = unit.good
        if not len(rows):
            return
        masks: list[bytes] = []
        qualities: list[dict[str, Any]] = []
        done: list[int] = []
        faces = _aligned(unit, rows)
        degrees = to_degrees(to_matrix(unit.numbers("head_rotation", rows)))
        residuals = np.concatenate([unit.numbers(name, rows) for name in _RESIDUALS], axis=1)
        frame_size = unit.record["height"], unit.record["width"]
        for i, row in enumerate(rows.tolist()):
            try:
                with unit.timed("parse"):
                    mask = segment(self._parser, faces, i, frame_size)
                    masks.append(encode_png(mask))
                with unit.timed("quality"):
                    qualities.append(asdict(self._assess(faces, i, mask, degrees[i], residuals[i])))
            except BAD_FACE as e:
                unit.fail(row, self.name, str(e))
                del masks[len(done) :], qualities[len(done) :]
                continue
            done.append(row)
        columns: dict[str, pa.Array] = {"mask": pa.array(masks, pa.binary())}
        for f in fields(Quality):
            columns[f.name] = pa.array([q[f.name] for q in qualities], pa.bool_() if f.type == "bool" else pa.float32())
        unit.add(columns, np.array(done, np.int64))


def _aligned(unit: Unit, rows: np.ndarray) -> AlignedFaces:
    """The faces of these rows; their crops are decoded when they are read."""
    return AlignedFaces(
        crops=unit.crops(rows),
        frame_to_crop=unit.numbers("frame_to_crop", rows).reshape(len(rows), 2, 3),
        boxes=unit.numbers("box", rows),
        landmarks=unit.numbers("landmarks", rows).reshape(len(rows), -1, 3),
        scores=unit["_score"].to_numpy()[rows],
        blendshapes=None if unit["blendshapes"].null_count else unit.numbers("blendshapes", rows),
    )


class Write:
    """Commit: one whole Parquet object per unit, or a small record where there is nothing to show.

    The first commit of a unit wins: a twin that comes late (a node that was thought lost) changes nothing.
    """

    name = "write"
    needs = ("status",)
    adds = ("uri", "identity")

    def __init__(self, out: str, head: HeadSpec, detector: DetectorSpec) -> None:
        self._store = Store(out)
        self._schema = schema.faces_schema(head, detector)

    def __call__(self, unit: Unit) -> None:
        with unit.timed(self.name):
            if not unit.has_faces:
                path, data = error_path(unit.unit_id), json.dumps(unit.record).encode()
            else:
                path, data = part_path(unit.unit_id), parquet(self._table(unit))
            self._store.publish(path, data, replace=False)
        unit.record["bytes"] = len(data)
        unit.set_faces(None)

    def _table(self, unit: Unit) -> pa.Table:
        known = {name: unit[name] for name in unit.faces.column_names if name in self._schema.names}
        table = schema.table_of({"uri": [unit.plan["uri"]] * len(unit.faces), **known}, self._schema)
        return with_record(table, unit.record)


class StageActor:
    """Some neighbouring stages in one Ray actor; hands whole units on.

    Args:
        stages: (class, arguments) in order.
    """

    def __init__(self, stages: list[tuple[Callable[..., Stage], dict[str, Any]]]) -> None:
        import cv2

        cv2.setNumThreads(1)  # the actors of a pool are the parallelism
        self._stages = [make(**arguments) for make, arguments in stages]

    def __call__(self, row: pa.Table) -> pa.Table:
        """One row in, one row out."""
        unit = Unit.unpack(row)
        for stage in self._stages:
            if unit.has_faces or stage.name in ("look", "write"):
                with metrics.stage_of(stage.name, unit):
                    stage(unit)
        return unit.pack()
