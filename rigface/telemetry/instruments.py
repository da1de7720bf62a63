"""What is counted while work goes on: metrics under stable names, told to whoever exports them.

Path: a job or the service -> `MetricRecorder` -> classes like those of `ray.util.metrics`, which the caller brings, or
none.

The names are a contract: alerts, dashboards and runbooks use them. `pipelines/telemetry/metrics.py` and
`serve/telemetry/metrics.py` each hold a list of theirs. A label has few values (a stage, a status), never a name of an
input, a person or a request. Two habits of Ray 2.60's exporter shape this: a histogram's `_sum` is made of middles of
buckets, so times that are averaged are counters of seconds; and a gauge that nobody sets again is gone after 20 s, so
the last value of each is said again and again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Record = Callable[[float, dict[str, str]], None]
AGAIN_S = 2.0


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: what it is called, without the `_total` that exporters append to counters.
        meaning: one line, with the unit.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name.endswith("_total") or (self.kind == "histogram") != bool(self.buckets):
            raise ValueError(f"{self.name}: a name ends without _total, and histograms alone have buckets")

    @property
    def series(self) -> tuple[str, ...]:
        """The names it has where it is scraped."""
        ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
        return tuple(self.name + end for end in ends[self.kind])


class MetricRecorder:
    """Takes the numbers of this process.

    Args:
        library: has Counter, Gauge and Histogram as `ray.util.metrics` does; asked at each number, None: nobody
            listens.
    """

    def __init__(self, library: Callable[[], Any]) -> None:
        self._library = library
        self._records: dict[str, Record] = {}
        self._levels: dict[tuple[str, ...], tuple[Record, float, dict[str, str]]] = {}

    def __call__(self, measure: Metric, value: float = 1.0, **labels: str) -> None:
        """Add to a counter, set a gauge, or put into a histogram.

        Raises:
            ValueError: the labels are not those of the measure.
        """
        if len(labels) != len(measure.labels) or any(name not in labels for name in measure.labels):
            raise ValueError(f"{measure.name}: want labels {list(measure.labels)}, got {sorted(labels)}")
        library = self._library()
        if library is None or (measure.kind == "counter" and value <= 0):
            return
        record = self._records.get(measure.name)
        if record is None:
            record = self._records[measure.name] = _record(library, measure)
        record(value, labels)
        if measure.kind == "gauge":
            if not self._levels:
                threading.Thread(target=self._again, name="gauges", daemon=True).start()
            self._levels[measure.name, *labels.values()] = record, value, labels

    def _again(self) -> None:
        while True:
            time.sleep(AGAIN_S)
            if self._library() is not None:
                for record, value, labels in list(self._levels.values()):
                    record(value, labels)


def _record(library: Any, measure: Metric) -> Record:
    about = {"name": measure.name, "description": measure.meaning, "tag_keys": measure.labels}
    record: Record
    if measure.kind == "counter":
        record = library.Counter(**about).inc
    elif measure.kind == "gauge":
        record = library.Gauge(**about).set
    else:
        record = library.Histogram(**about, boundaries=list(measure.buckets)).observe
    return record
