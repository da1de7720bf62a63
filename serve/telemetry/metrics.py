"""The metrics of the service, all of them, by name.

Path: door, eye, painter, jobs -> `tell` -> Ray -> the Prometheus endpoint of the node, as `ray_<name>` -> infra/observability.
A door's own numbers are also at its /metrics, for a service on one machine: where Ray's endpoints are scraped, leave that one
out, or requests are counted twice.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rigface.storage import s3_client
from rigface.telemetry.instruments import Metric, MetricRecorder

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.15, 0.3, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_STEP = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0)

REQUESTS = Metric("rigface_requests", "counter", "answers", ("route", "status"))
REQUEST_SECONDS = Metric("rigface_request_seconds", "histogram", "time to the end of an answer, s", ("route",), _SECONDS)  # fmt: skip
IN_FLIGHT = Metric("rigface_requests_in_flight", "gauge", "requests at work in a door")
PROBLEMS = Metric("rigface_problems", "counter", "answers that are problems", ("type",))
EDITS = Metric("rigface_edits", "counter", "edits finished", ("model",))
FACES_EDITED = Metric("rigface_faces_edited", "counter", "faces edited", ("model",))
EDIT_SECONDS = Metric("rigface_edit_seconds", "histogram", "time of a finished edit: look, wait (for the painter), paint, finish, total, s", ("phase",), _SECONDS)  # fmt: skip

PAINTER_WAITING = Metric("rigface_painter_waiting", "gauge", "edits that wait to get into a painter's batch")
PAINTER_ROWS = Metric("rigface_painter_rows", "counter", "rows painted; over the steps: the mean batch")
PAINTER_STEPS = Metric("rigface_painter_steps", "counter", "denoising steps taken, of whole batches")
PAINTER_BATCH_ROWS = Metric("rigface_painter_batch_rows", "histogram", "rows in a step", (), _ROWS)
PAINTER_STEP_SECONDS = Metric("rigface_painter_step_seconds", "histogram", "time of a step, s", (), _STEP)
CACHE_LOOKUPS = Metric("rigface_cache_lookups", "counter", "lookups in memory; cache: door, seen, small, laid, remembered, who; result: hit, miss", ("cache", "result"))  # fmt: skip

JOBS = Metric("rigface_jobs", "gauge", "jobs in the queue's folder by state", ("state",))

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
AT_THE_DOOR = (REQUESTS, REQUEST_SECONDS, IN_FLIGHT, PROBLEMS, EDITS, FACES_EDITED, EDIT_SECONDS)


def _ray() -> Any:
    """Ray's classes of metrics, in a process that is on a cluster."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util import metrics

    return metrics


tell = MetricRecorder(_ray)
"""Tell one number: `tell(PAINTER_WAITING, 3)`."""

s3_client.tell = tell


def stepped(rows: int, seconds: float) -> None:
    """A painter took a step with so many rows."""
    tell(PAINTER_STEPS)
    tell(PAINTER_ROWS, rows)
    tell(PAINTER_BATCH_ROWS, rows)
    tell(PAINTER_STEP_SECONDS, seconds)


def jobs_by_state(states: Iterable[str]) -> None:
    """The states of all jobs in the queue's folder, one each."""
    counts = Counter(states)
    for state in ("queued", "running", "done", "failed", "cancelled"):
        tell(JOBS, counts[state], state=state)


_VERBS = {"counter": "inc", "gauge": "set", "histogram": "observe"}


class Numbers:
    """What a door counts, told to Ray and kept for its /metrics; a registry each, so that two in one process do not meet."""

    def __init__(self) -> None:
        import prometheus_client

        self._registry, self._inside = prometheus_client.CollectorRegistry(), 0
        self._kept: dict[str, Any] = {}
        for m in AT_THE_DOOR:
            buckets = {"buckets": m.buckets} if m.buckets else {}
            make = getattr(prometheus_client, m.kind.title())
            self._kept[m.name] = make(m.name, m.meaning, m.labels, registry=self._registry, **buckets)

    def __call__(self, measure: Metric, value: float = 1.0, **labels: str) -> None:
        """As `tell`, for a measure of `AT_THE_DOOR`."""
        kept = self._kept[measure.name]
        kept = kept.labels(**labels) if measure.labels else kept
        getattr(kept, _VERBS[measure.kind])(value)
        tell(measure, value, **labels)

    def inside(self, change: int) -> None:
        """One request more, or one less, is at work."""
        self._inside += change
        self(IN_FLIGHT, self._inside)

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
