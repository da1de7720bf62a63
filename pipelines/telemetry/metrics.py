"""Metrics of the jobs. They appear on the Prometheus endpoint of every Ray node, as `ray_<name>`.

Path: stages, the driver of `extract`, the training loop -> `record` -> Ray -> :8080/metrics -> infra/observability.

Outside a Ray process (a training without workers, a unit test of a stage) nothing is recorded.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rigface.storage import s3_client
from rigface.storage.s3_client import RETRIES as RETRIES  # one of ALL: recorded at every request to S3
from rigface.telemetry.instruments import Metric, MetricRecorder

_LONG = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_SHORT = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

STAGE_FRAMES = Metric("rigface_stage_frames", "counter", "sampled frames a stage has processed", ("stage",))
STAGE_UNIT_SECONDS = Metric(
    "rigface_stage_unit_seconds", "histogram", "time of a stage for one unit of work, s", ("stage",), _LONG
)
STEP_SECONDS = Metric("rigface_step_seconds", "counter", "working time by step of a stage, s", ("step",))
FACES = Metric("rigface_faces", "counter", "faces found")
FACE_FAILURES = Metric(
    "rigface_face_failures", "counter", "faces a stage failed on; their rows have a reason", ("stage",)
)
UNITS = Metric(
    "rigface_units", "counter", "units of work committed; stage: that of the error, or empty", ("status", "stage")
)
CRASHES = Metric("rigface_child_crashes", "counter", "child processes that crashed or hung, by step", ("step",))
BYTES = Metric("rigface_written_bytes", "counter", "bytes of committed units")
VIDEO_CACHE_LOOKUPS = Metric(
    "rigface_video_cache_lookups",
    "counter",
    "opened videos on S3; result: hit (this machine has a copy), miss",
    ("result",),
)
VIDEO_CACHE_BYTES = Metric(
    "rigface_video_cache_bytes",
    "counter",
    "bytes of videos on S3; what: fetched from S3, read from copies, kept as copies, evicted",
    ("what",),
)
VIDEO_CACHE_EVICTIONS = Metric("rigface_video_cache_evictions", "counter", "copies deleted to make room for others")
LEFT = Metric("rigface_job_left", "gauge", "remaining work of the running job: inputs, units, frames", ("what",))

TRAIN_STEPS = Metric("rigface_train_steps", "counter", "optimizer steps of a worker", ("rank",))
TRAIN_EXAMPLES = Metric("rigface_train_examples", "counter", "examples a worker has trained on", ("rank",))
TRAIN_SECONDS = Metric(
    "rigface_train_seconds",
    "counter",
    "time of a worker: step, wait (for data), validation, checkpoint, s",
    ("rank", "part"),
)
TRAIN_STEP_SECONDS = Metric(
    "rigface_train_step_seconds", "histogram", "time of one step, without waiting for data, s", ("rank",), _SHORT
)
TRAIN_STEP = Metric("rigface_train_step", "gauge", "number of the latest step")
TRAIN_LOSS = Metric("rigface_train_loss", "gauge", "loss of the latest step, all workers'")
TRAIN_LOSS_FINITE = Metric(
    "rigface_train_loss_finite", "gauge", "1, or 0 if the latest loss is not finite, which Ray does not export"
)
TRAIN_VALIDATION = Metric("rigface_train_validation", "gauge", "latest numbers on held-out edits", ("name",))

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def _ray() -> Any:
    """Ray's metric classes, in a process that is on a cluster."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util import metrics

    return metrics


record = MetricRecorder(_ray)
"""Record a number: `record(STAGE_FRAMES, 300, stage="write")`. A child process sends it to its parent."""

s3_client.record_metric = lambda measure, value=1.0, **labels: record(measure, value, **labels)


def step_of(rank: int, step: int, loss: float, took: float, wait: float, examples: int) -> None:
    """Record a training step: loss over all workers, seconds of the step, seconds of waiting for data."""
    worker = str(rank)
    record(TRAIN_STEPS, rank=worker)
    record(TRAIN_EXAMPLES, examples, rank=worker)
    record(TRAIN_SECONDS, took, rank=worker, part="step")
    record(TRAIN_SECONDS, wait, rank=worker, part="wait")
    record(TRAIN_STEP_SECONDS, took, rank=worker)
    if rank == 0:
        record(TRAIN_STEP, step)
        record(TRAIN_LOSS, loss)
        record(TRAIN_LOSS_FINITE, float(math.isfinite(loss)))


@contextmanager
def train_time(rank: int, part: str) -> Iterator[None]:
    """Add the time inside to a part of the training time."""
    clock = time.perf_counter()
    yield
    record(TRAIN_SECONDS, time.perf_counter() - clock, rank=str(rank), part=part)


def validated(rank: int, numbers: dict[str, Any]) -> None:
    """Record the latest numbers on held-out edits, `validation/psnr` and the like."""
    for name, value in numbers.items() if rank == 0 else ():
        if name.startswith("validation/"):
            record(TRAIN_VALIDATION, float(value), name=name.removeprefix("validation/"))
