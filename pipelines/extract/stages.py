"""Stages of the extract job: each wraps one operation of `rigface` and adds columns to the faces of a unit.

Path: Ray row, a shard -> StageActor(detect_faces) -> StageActor(reconstruct, mask_and_score, write) -> small records.

An actor does the units of a shard one after another, so that the rows of a unit do not depend on its neighbours, and a
file that kills the decoder costs itself alone. `Write` takes the whole shard.

A stage never drops a face and never raises for a bad one: it writes `status` and `reason` and leaves its columns null.
Only data errors become rows (`BadInput`, a singular matrix, numbers that are not finite); any other exception is a bug
and stops the job. `needs` and `adds` are checked by `check_columns` before a cluster is touched.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, ClassVar, Protocol, cast

import cv2
import numpy as np
import pyarrow as pa

from pipelines.extract import components
from pipelines.extract.config import Settings
from pipelines.extract.layout import QUALITY_COLUMNS, error_path, parquet, part_path, with_records
from pipelines.extract.quarantine import Crash, Quarantine
from pipelines.extract.unit import Shard, Unit, records_json
from pipelines.inputs import open_input, sources
from pipelines.telemetry import metrics
from pipelines.telemetry.worker_process import WorkerDied, WorkerProcess, kept_process
from rigface import confinement, schema
from rigface.errors import BadInput, PlanError
from rigface.face.steps import AlignedFaces, reconstruct, segment
from rigface.image import encode_png
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import DLIB_WIDTH, DetectorSpec, FaceParams, HeadSpec, Quality

TRIES = 2  # one crash may be the machine's fault; a second on the same file is the file's
BAD_FACE = (BadInput, np.linalg.LinAlgError)

_RESIDUALS = ("_landmark_residual", "_photometric_residual", "_occlusion")
_ALIGNED = ("status", "crop", "landmarks", "box", "frame_to_crop", "_score", "_brighter", "blendshapes")
_PARAMS = tuple(f.name for f in fields(FaceParams))


class Stage(Protocol):
    """One step of the job, on a unit; `Write` has none of the units' stages after it, and takes a shard."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    adds: ClassVar[tuple[str, ...]]

    def __call__(self, unit: Unit) -> None: ...


class DetectFaces:
    """Frames -> faces: decode, detect, track, align, crop. In a child process that may crash.

    Args:
        remote: start the child that reads from S3 first.
        part: as in `lock.hold`.
        device: of the detector's networks.
    """

    name = "detect_faces"
    needs = ()
    adds = (
        *("frame_index", "time_s", "track", "status", "reason", "box", "frame_to_crop", "landmarks", "blendshapes"),
        *("crop", "_score", "_brighter", "_chip"),
    )

    def __init__(
        self,
        settings: Settings,
        silence_s: float,
        out: str,
        remote: bool = False,
        part: str = "",
        device: str = "cpu",
    ) -> None:
        self._settings, self._silence_s, self._device = settings, silence_s, device
        self._children: dict[bool, WorkerProcess] = {}  # for remote inputs, which need the network, and for local ones
        self._child(remote).start()
        confinement.warn_of_missing()
        self._quarantine = Quarantine(lock.follow(Store(out), part))

    def __call__(self, unit: Unit) -> None:
        if earlier := self._quarantine.verdict(unit.plan):
            reason = f"not tried, because of other parts of it: {earlier.reason}"
            unit.record.give_up(earlier.stage, reason, earlier.crash)
            return
        address = sources.located(unit.plan.uri, self._settings.root)
        child = self._child(open_input.is_remote(address))
        for tries_left in reversed(range(TRIES)):
            try:
                with open_input.handed(address) as file:
                    unit.record, blob = child(unit.plan, file)
            except WorkerDied as died:
                step = died.step or "decode"
                metrics.record(metrics.CRASHES, step=step)
                if not tries_left:
                    crash = Crash(step, f"{step} crashed {TRIES} times on it: {died.how}", died.how)
                    unit.record.give_up(**asdict(crash))
                    self._quarantine.add(unit.plan, crash)
                continue
            unit.set_faces(blob)
            return

    def _child(self, remote: bool) -> WorkerProcess:
        if remote not in self._children:
            arguments = {"settings": self._settings, "network": remote, "device": self._device}
            target = "pipelines.extract.frame_processor:confined"
            self._children[remote] = kept_process(target, arguments, self._silence_s, storage=remote)
        return self._children[remote]


class Reconstruct:
    """Crops -> coefficients, all faces of a unit at once, so that the faces of a track share one identity; and the
    identity vectors of a few faces per track.
    """

    name = "reconstruct"
    needs = (*_ALIGNED, "track", "_chip")
    adds = ("identity_vector", *_PARAMS, *_RESIDUALS)

    def __init__(self, settings: Settings, device: str) -> None:
        self._wanted = tuple(n for n in _PARAMS if n == "head_rotation" or settings.wants(n))
        self._certain = _RESIDUALS if components.needs_colours(settings) else _RESIDUALS[:1]
        self._reconstructor = components.reconstructor(settings, device) if components.needs_fit(settings) else None
        self._identity = components.identity(settings)

    def __call__(self, unit: Unit) -> None:
        self._recognise(unit)
        rows = unit.good
        if not len(rows) or self._reconstructor is None:
            return
        with unit.timed(self.name):
            fit = reconstruct(self._reconstructor, _aligned(unit, rows), unit["track"].to_numpy()[rows])
            numbers = {name: getattr(fit.params, name) for name in self._wanted}
            numbers |= {name: getattr(fit, name[1:]) for name in _RESIDUALS}
            flat = {name: value.reshape(len(rows), -1) for name, value in numbers.items() if value is not None}
            certain = (value for name, value in flat.items() if name not in _RESIDUALS or name in self._certain)
            finite = np.all([np.isfinite(value).all(1) for value in certain], axis=0)
            for row in rows[~finite]:
                unit.fail(int(row), self.name, "its coefficients are not finite")
            unit.add({name: schema.column(v[finite], v.shape[1]) for name, v in flat.items()}, rows[finite])

    def _recognise(self, unit: Unit) -> None:
        """Put identity vectors in the place of the chips; those of a track are computed together."""
        chips, tracks = unit["_chip"].to_pylist(), unit["track"].to_pylist()
        vectors: list[np.ndarray | None] = [None] * len(chips)
        if self._identity is not None:
            with unit.timed("identity"):
                for track in dict.fromkeys(tracks):
                    rows = [i for i, chip in enumerate(chips) if chip is not None and tracks[i] == track]
                    for i, vector in zip(rows, self._identity.embed([_square(chips[i]) for i in rows])):
                        vectors[i] = vector
        width = DLIB_WIDTH if self._identity is None else self._identity.width
        unit.faces = unit.faces.drop_columns(["_chip"]).append_column("identity_vector", schema.column(vectors, width))


def _square(pixels: bytes) -> np.ndarray:
    """(S, S, 3) uint8 from its bytes."""
    side = math.isqrt(len(pixels) // 3)
    return np.frombuffer(pixels, np.uint8).reshape(side, side, 3)


class MaskAndScore:
    """The person's mask and the quality columns."""

    name = "mask_and_score"
    needs = (*_ALIGNED, "head_rotation", *_RESIDUALS)
    adds = ("mask", *QUALITY_COLUMNS)

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self._parser = components.parser(settings, device) if components.needs_mask(settings) else None
        self._keeps_mask = settings.wants("mask")
        has_scores = settings.wants(*QUALITY_COLUMNS)
        self._assess = components.assess(settings) if has_scores else None
        self._to_degrees = components.to_degrees(settings) if has_scores else np.zeros_like

    def __call__(self, unit: Unit) -> None:
        rows = unit.good
        if not len(rows) or (self._parser is None and self._assess is None):
            return
        masks: list[bytes] = []
        qualities: list[Quality] = []
        done: list[int] = []
        faces = _aligned(unit, rows)
        if self._assess is not None:
            degrees = self._to_degrees(unit.numbers("head_rotation", rows))
            residuals = np.concatenate([unit.numbers(name, rows) for name in _RESIDUALS], axis=1)
        height, width = unit.record.height, unit.record.width
        assert height is not None and width is not None  # noqa: PT018
        for i, row in enumerate(rows.tolist()):
            try:
                mask = None
                if self._parser is not None:
                    with unit.timed("parse"):
                        mask = segment(self._parser, faces, i, (height, width))
                        masks += [encode_png(mask)] if self._keeps_mask else []
                if self._assess is not None:
                    with unit.timed("quality"):
                        qualities.append(self._assess(faces, i, mask, degrees[i], residuals[i]))
            except BAD_FACE as e:
                unit.fail(row, self.name, str(e))
                del masks[len(done) :], qualities[len(done) :]
                continue
            done.append(row)
        columns: dict[str, pa.Array] = {"mask": pa.array(masks, pa.binary())} if self._keeps_mask else {}
        for f in fields(Quality) if self._assess is not None else ():
            kind = pa.bool_() if f.type == "bool" else pa.float32()
            columns[f.name] = pa.array([getattr(quality, f.name) for quality in qualities], kind)
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
        brighter=unit["_brighter"].to_numpy()[rows],
    )


class Write:
    """Commit: one whole Parquet object per shard, or a small one of records if the shard has no faces.

    The first commit of a shard wins: a late duplicate (of a node that was thought lost) changes nothing.
    """

    name = "write"
    needs = ("status",)
    adds = ("uri",)

    def __init__(
        self, out: str, head: HeadSpec, detector: DetectorSpec, part: str = "", columns: tuple[str, ...] = ()
    ) -> None:
        self._store = lock.follow(Store(out), part)
        self._quarantine = Quarantine(self._store)
        self._schema = schema.faces_schema(head, detector, columns)

    def __call__(self, shard: Shard) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        tables = [self._table(unit) for unit in shard.units if unit.has_faces]
        if tables:
            data = parquet(with_records(pa.concat_tables(tables), shard.records))
        else:
            data = records_json(shard.records).encode()
        self._store.publish((part_path if tables else error_path)(shard.name), data, replace=False)
        self._quarantine.end(shard)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        faces = sum(map(len, tables)) or len(shard.units)
        for unit in shard.units:  # each has the share of its faces, in the end without faces
            share = (unit.record.faces if tables else 1) / faces
            unit.record.seconds[self.name], unit.record.bytes = wall * share, round(len(data) * share)
            unit.record.cpu_seconds += cpu * share
            unit.set_faces(None)

    def _table(self, unit: Unit) -> pa.Table:
        columns = {name: unit[name] for name in unit.faces.column_names if name in self._schema.names}
        return schema.table_of({"uri": [unit.plan.uri] * len(unit.faces), **columns}, self._schema)


class StageActor:
    """Neighbouring stages in one Ray actor, each as (class or factory, arguments); passes whole shards on.

    `out` and `part` are the dataset and what `lock.hold` has locked of it.
    """

    def __init__(self, stages: list[tuple[Callable[..., Any], dict[str, Any]]], out: str, part: str = "") -> None:
        cv2.setNumThreads(1)  # the actors of a pool are the parallelism
        made = [make(**arguments) for make, arguments in stages]
        self._write = next((stage for stage in made if isinstance(stage, Write)), None)
        self._stages = [cast(Stage, stage) for stage in made if stage is not self._write]
        self._quarantine = Quarantine(lock.follow(Store(out), part))

    def __call__(self, row: pa.Table) -> pa.Table:
        """One row in, one row out."""
        shard = Shard.from_arrow(row)
        self.run(shard)
        return shard.to_arrow()

    def run(self, shard: Shard) -> None:
        """Do the stages on a shard."""
        if self._stages and self._stages[0].name == DetectFaces.name:
            shard.again = self._quarantine.begin(shard.name)
        for unit in shard.units if self._stages else ():
            if not shard.again:
                self._run_unit(unit)
            elif lost := self._quarantine.attempt(unit.plan, self._stages[0].name):
                unit.record.give_up(**asdict(lost))
                unit.set_faces(None)
            else:
                self._run_unit(unit)
                self._quarantine.ended(unit.plan)
        if self._write is not None:
            self._write(shard)
            for unit in shard.units:
                report(Write.name, unit, unit.record.seconds[Write.name])

    def _run_unit(self, unit: Unit) -> None:
        for stage in self._stages:
            if unit.has_faces or stage.name == DetectFaces.name:
                with measured(stage.name, unit), unit.busy():
                    stage(unit)
        unit.forget_crops()


@contextmanager
def measured(stage: str, unit: Unit) -> Iterator[None]:
    """Record the metrics of a stage's work on a unit."""
    earlier, failures, clock = dict(unit.record.seconds), _failures(stage, unit), time.perf_counter()
    yield
    report(stage, unit, time.perf_counter() - clock)
    for step, seconds in unit.record.seconds.items():
        if seconds != earlier.get(step):
            metrics.record(metrics.STEP_SECONDS, seconds - earlier.get(step, 0.0), step=step)
    metrics.record(metrics.FACE_FAILURES, _failures(stage, unit) - failures, stage=stage)


def report(stage: str, unit: Unit, seconds: float) -> None:
    """Record that a stage is done with a unit."""
    record = unit.record
    metrics.record(metrics.STAGE_UNIT_SECONDS, seconds, stage=stage)
    metrics.record(metrics.STAGE_FRAMES, record.frames, stage=stage)
    if stage == DetectFaces.name:
        metrics.record(metrics.FACES, record.faces)
    if stage == Write.name:
        metrics.record(metrics.STEP_SECONDS, seconds, step=stage)
        metrics.record(metrics.UNITS, status=record.status, stage=record.stage or "")
        metrics.record(metrics.BYTES, record.bytes)


def _failures(stage: str, unit: Unit) -> int:
    """Failed faces so far; counted only at stages that have parsed the table of faces anyway."""
    return len(unit.faces) - len(unit.good) if stage in (Reconstruct.name, MaskAndScore.name) else 0


def check_columns(stages: Iterable[type[Stage]], wanted: Iterable[str]) -> None:
    """Check that every stage finds the columns it needs, and that all wanted ones are there at the end.

    PlanError names a column that no earlier stage adds.
    """
    columns: set[str] = set()
    for stage in stages:
        if missing := set(stage.needs) - columns:
            raise PlanError(f"{stage.name} needs {sorted(missing)}; before it there are {sorted(columns)}")
        columns |= set(stage.adds)
    if missing := set(wanted) - columns:
        raise PlanError(f"no stage adds {sorted(missing)}")
