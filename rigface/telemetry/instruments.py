"""Counters, gauges and histograms under stable names, recorded through the caller's metrics library.

Path: a job or the service -> `MetricRecorder` -> classes like those of `ray.util.metrics`, or none.

The names are a contract: alerts, dashboards and runbooks use them; `pipelines/telemetry/metrics.py` and
`serve/telemetry/metrics.py` list them. A label has few values (a stage, a status), never a name of an input, a person
or a request. Two properties of Ray 2.60's exporter shape this: a histogram's `_sum` is made of middles of buckets, so
times that are averaged are counters of seconds; and a gauge disappears 20 s after it was set, so the last value of each
is repeated.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Record = Callable[[float, dict[str, str]], None]
REPEAT_S = 2.0


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str  # without the `_total` that exporters append to counters
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str  # description in one line, with the unit
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds of a histogram

    def __post_init__(self) -> None:
        if self.name.endswith("_total") or (self.kind == "histogram") != bool(self.buckets):
            raise ValueError(f"{self.name}: a name ends without _total, and histograms alone have buckets")

    @property
    def series(self) -> tuple[str, ...]:
        """Its names when it is scraped."""
        ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
        return tuple(self.name + end for end in ends[self.kind])


class MetricRecorder:
    """Records the metrics of this process through a library like `ray.util.metrics`; nothing if `library()` is None."""

    def __init__(self, library: Callable[[], Any]) -> None:
        self._library = library
        self._records: dict[str, Record] = {}
        self._gauges: dict[tuple[str, ...], tuple[Record, float, dict[str, str]]] = {}

    def __call__(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Add to a counter, set a gauge, or observe a value of a histogram; ValueError for other labels."""
        if len(labels) != len(metric.labels) or any(name not in labels for name in metric.labels):
            raise ValueError(f"{metric.name}: want labels {list(metric.labels)}, got {sorted(labels)}")
        library = self._library()
        if library is None or (metric.kind == "counter" and value <= 0):
            return
        # Ray takes ASCII alone.
        labels = {name: text.encode("ascii", "backslashreplace").decode() for name, text in labels.items()}
        record = self._records.get(metric.name)
        if record is None:
            record = self._records[metric.name] = _record(library, metric)
        record(value, labels)
        if metric.kind == "gauge":
            if not self._gauges:
                threading.Thread(target=self._repeat, name="gauges", daemon=True).start()
            self._gauges[metric.name, *labels.values()] = record, value, labels

    def _repeat(self) -> None:
        while True:
            time.sleep(REPEAT_S)
            if self._library() is not None:
                for record, value, labels in list(self._gauges.values()):
                    record(value, labels)


def _record(library: Any, metric: Metric) -> Record:
    about = {"name": metric.name, "description": metric.meaning, "tag_keys": metric.labels}
    if metric.kind == "histogram":
        record: Record = library.Histogram(**about, boundaries=list(metric.buckets)).observe
    else:
        record = library.Counter(**about).inc if metric.kind == "counter" else library.Gauge(**about).set
    return record
