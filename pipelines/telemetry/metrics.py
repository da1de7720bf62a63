"""The metrics of the jobs, all of them, by name. They appear on the Prometheus endpoint of every Ray node, as `ray_<name>`.

Path: stages, the driver of `extract`, the training loop -> `tell` -> Ray -> :8080/metrics -> infra/observability.

Outside a Ray process (a training without workers, a unit test of a stage) nothing is told to anybody.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rigface.storage import s3_client
from rigface.storage.s3_client import RETRIES as RETRIES  # one of ALL: told wherever S3 is asked
from rigface.telemetry.instruments import Metric, MetricRecorder

if TYPE_CHECKING:
    from pipelines.extract.unit import Unit

_LONG = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_SHORT = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

STAGE_FRAMES = Metric("rigface_stage_frames", "counter", "looked-at frames a stage has done", ("stage",))
STAGE_UNIT_SECONDS = Metric("rigface_stage_unit_seconds", "histogram", "time of a stage for one unit of work, s", ("stage",), _LONG)  # fmt: skip
STEP_SECONDS = Metric("rigface_step_seconds", "counter", "working time by step of a stage, s", ("step",))
FACES = Metric("rigface_faces", "counter", "faces found")
FACE_FAILURES = Metric("rigface_face_failures", "counter", "faces a stage failed on; they are rows with a reason", ("stage",))  # fmt: skip
UNITS = Metric("rigface_units", "counter", "units of work committed; stage: what stopped it, or empty", ("status", "stage"))  # fmt: skip
CRASHES = Metric("rigface_child_crashes", "counter", "child processes that crashed or hung, by the step they were at", ("step",))  # fmt: skip
BYTES = Metric("rigface_written_bytes", "counter", "bytes of committed units")
VIDEO_CACHE_LOOKUPS = Metric("rigface_video_cache_lookups", "counter", "videos on S3 that were opened; result: hit (this machine has a copy), miss", ("result",))  # fmt: skip
VIDEO_CACHE_BYTES = Metric("rigface_video_cache_bytes", "counter", "bytes of videos on S3; what: fetched from there, read from copies, kept as copies, evicted", ("what",))  # fmt: skip
VIDEO_CACHE_EVICTIONS = Metric("rigface_video_cache_evictions", "counter", "copies that went to make room for others")
LEFT = Metric("rigface_job_left", "gauge", "what the running job has still to do: inputs, units, frames", ("what",))

TRAIN_STEPS = Metric("rigface_train_steps", "counter", "optimizer steps of a worker", ("rank",))
TRAIN_EXAMPLES = Metric("rigface_train_examples", "counter", "examples a worker has learnt from", ("rank",))
TRAIN_SECONDS = Metric("rigface_train_seconds", "counter", "time of a worker: step, wait (for data), validation, checkpoint, s", ("rank", "part"))  # fmt: skip
TRAIN_STEP_SECONDS = Metric("rigface_train_step_seconds", "histogram", "time of one step, without waiting for data, s", ("rank",), _SHORT)  # fmt: skip
TRAIN_STEP = Metric("rigface_train_step", "gauge", "number of the latest step")
TRAIN_LOSS = Metric("rigface_train_loss", "gauge", "loss of the latest step, all workers'")
TRAIN_LOSS_FINITE = Metric(
    "rigface_train_loss_finite", "gauge", "1, or 0 where the latest loss is no number: Ray exports none such"
)
TRAIN_VALIDATION = Metric("rigface_train_validation", "gauge", "latest numbers on held-out edits", ("name",))

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def _ray() -> Any:
    """Ray's classes of metrics, in a process that is on a cluster."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util import metrics

    return metrics


tell = MetricRecorder(_ray)
"""Tell one number: `tell(STAGE_FRAMES, 300, stage="look")`. In a child process `child` has it go to the parent, who tells."""

s3_client.tell = lambda measure, value=1.0, **labels: tell(measure, value, **labels)


@contextmanager
def stage_of(name: str, unit: Unit) -> Iterator[None]:
    """Count what the stage inside does to a unit."""
    before, bad, clock = dict(unit.record["seconds"]), _bad(name, unit), time.perf_counter()
    yield
    record = unit.record
    tell(STAGE_UNIT_SECONDS, time.perf_counter() - clock, stage=name)
    tell(STAGE_FRAMES, record["frames"], stage=name)
    for step, seconds in record["seconds"].items():
        if seconds != before.get(step):
            tell(STEP_SECONDS, seconds - before.get(step, 0.0), step=step)
    tell(FACE_FAILURES, _bad(name, unit) - bad, stage=name)
    if name == "look":
        tell(FACES, record["faces"])
    if name == "write":
        tell(UNITS, status=record["status"], stage=record["stage"] or "")
        tell(BYTES, record["bytes"])


def _bad(name: str, unit: Unit) -> int:
    """Faces that failed so far; asked only of stages that have the table of faces open anyway."""
    return len(unit.faces) - len(unit.good) if name in ("reconstruct", "finish") else 0


def step_of(rank: int, step: int, loss: float, took: float, wait: float, examples: int) -> None:
    """A worker took a step: its loss over all workers, its seconds, and those it waited for data."""
    who = str(rank)
    tell(TRAIN_STEPS, rank=who)
    tell(TRAIN_EXAMPLES, examples, rank=who)
    tell(TRAIN_SECONDS, took, rank=who, part="step")
    tell(TRAIN_SECONDS, wait, rank=who, part="wait")
    tell(TRAIN_STEP_SECONDS, took, rank=who)
    if rank == 0:
        tell(TRAIN_STEP, step)
        tell(TRAIN_LOSS, loss)
        tell(TRAIN_LOSS_FINITE, float(math.isfinite(loss)))


@contextmanager
def train_time(rank: int, part: str) -> Iterator[None]:
    """Count the time inside as a part of the training's."""
    clock = time.perf_counter()
    yield
    tell(TRAIN_SECONDS, time.perf_counter() - clock, rank=str(rank), part=part)


def validated(rank: int, numbers: dict[str, Any]) -> None:
    """The latest numbers on held-out edits, `validation/psnr` and the like."""
    for name, value in numbers.items() if rank == 0 else ():
        if name.startswith("validation/"):
            tell(TRAIN_VALIDATION, float(value), name=name.removeprefix("validation/"))
