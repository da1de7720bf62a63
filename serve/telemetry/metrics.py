"""All metrics of the service, by name.

Path: gateway, workers, job queue -> `record` -> Ray -> the Prometheus endpoint of the node, as `ray_<name>` ->
infra/observability. A gateway's own metrics are also at its /metrics, for a service on one machine. Scrape either
that or Ray's endpoints: with both, requests are counted twice.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import prometheus_client

from rigface.storage import s3_client
from rigface.telemetry.instruments import Metric, MetricRecorder

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.15, 0.3, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_STEP_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0)

REQUESTS = Metric("rigface_requests", "counter", "responses", ("route", "status"))
REQUEST_SECONDS = Metric(
    "rigface_request_seconds", "histogram", "time to the end of a response, s", ("route",), _SECONDS
)
IN_FLIGHT = Metric("rigface_requests_in_flight", "gauge", "requests under way in a gateway")
PROBLEMS = Metric("rigface_problems", "counter", "responses that are problems", ("type",))
EDITS = Metric("rigface_edits", "counter", "edits finished", ("model",))
FACES_EDITED = Metric("rigface_faces_edited", "counter", "faces edited", ("model",))
EDIT_SECONDS = Metric(
    "rigface_edit_seconds", "histogram",
    "time of a finished edit; phase: look, wait (in the diffusion queue), paint (sampling), finish, total; s",
    ("phase",), _SECONDS,
)  # fmt: skip

DIFFUSION_WAITING = Metric(
    "rigface_diffusion_waiting", "gauge", "requests that wait for admission to a diffusion batch"
)
DIFFUSION_ROWS = Metric("rigface_diffusion_rows", "counter", "rows sampled; divided by the steps: the mean batch")
DIFFUSION_STEPS = Metric("rigface_diffusion_steps", "counter", "denoising steps of whole batches")
DIFFUSION_BATCH_ROWS = Metric("rigface_diffusion_batch_rows", "histogram", "rows in a step", (), _ROWS)
DIFFUSION_STEP_SECONDS = Metric("rigface_diffusion_step_seconds", "histogram", "time of a step, s", (), _STEP_SECONDS)
CACHE_LOOKUPS = Metric(
    "rigface_cache_lookups", "counter",
    "lookups in memory; cache: pictures, analyses, resized, layouts, reference-tokens, identity-vectors; "
    "result: hit, miss",
    ("cache", "result"),
)  # fmt: skip

JOBS = Metric("rigface_jobs", "gauge", "jobs in the queue by state", ("state",))

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
OF_GATEWAY = (REQUESTS, REQUEST_SECONDS, IN_FLIGHT, PROBLEMS, EDITS, FACES_EDITED, EDIT_SECONDS)


def _ray_metrics() -> Any:
    """`ray.util.metrics` in a process of a Ray cluster, else None."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util import metrics

    return metrics


record = MetricRecorder(_ray_metrics)
"""Record a value: `record(DIFFUSION_WAITING, 3)`."""

s3_client.record_metric = record


def record_step(rows: int, seconds: float) -> None:
    record(DIFFUSION_STEPS)
    record(DIFFUSION_ROWS, rows)
    record(DIFFUSION_BATCH_ROWS, rows)
    record(DIFFUSION_STEP_SECONDS, seconds)


def record_job_states(states: Iterable[str]) -> None:
    """Record the number of jobs in each state, from the states of all jobs."""
    counts = Counter(states)
    for state in ("queued", "running", "done", "failed", "cancelled"):
        record(JOBS, counts[state], state=state)


_VERBS = {"counter": "inc", "gauge": "set", "histogram": "observe"}


class GatewayMetrics:
    """Metrics of one gateway, sent to Ray and kept for its /metrics. Each has its own registry."""

    def __init__(self) -> None:
        self._registry, self._in_flight = prometheus_client.CollectorRegistry(), 0
        self._collectors: dict[str, Any] = {}
        for metric in OF_GATEWAY:
            buckets = {"buckets": metric.buckets} if metric.buckets else {}
            make = getattr(prometheus_client, metric.kind.title())
            arguments = metric.name, metric.meaning, metric.labels
            self._collectors[metric.name] = make(*arguments, registry=self._registry, **buckets)

    def __call__(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """As `record`, for a metric of `OF_GATEWAY`."""
        collector = self._collectors[metric.name]
        collector = collector.labels(**labels) if metric.labels else collector
        getattr(collector, _VERBS[metric.kind])(value)
        record(metric, value, **labels)

    def change_in_flight(self, change: int) -> None:
        """Count a request that begins (1) or ends (-1)."""
        self._in_flight += change
        self(IN_FLIGHT, self._in_flight)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self._registry)
