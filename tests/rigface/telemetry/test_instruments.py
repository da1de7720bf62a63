"""Metrics: names, declared labels, repeated gauges, and the cost of recording."""

import time

import pytest

from rigface.telemetry.instruments import Metric, MetricRecorder

COUNT = Metric("rigface_things", "counter", "things", ("kind",))
LEVEL = Metric("rigface_level", "gauge", "level")
TIMES = Metric("rigface_seconds", "histogram", "s", (), (1.0, 2.0))


class Library:
    """Classes as `ray.util.metrics` has them, which write down what they are told."""

    def __init__(self):
        self.told = []
        self.made = []
        for name, verb in (("Counter", "inc"), ("Gauge", "set"), ("Histogram", "observe")):
            setattr(self, name, self._kind(verb))

    def _kind(self, verb):
        def make(name, description, tag_keys, **more):
            self.made.append((name, more))
            return type("Kind", (), {verb: staticmethod(lambda value, tags: self.told.append((name, value, tags)))})

        return make


def test_values_are_recorded_and_each_metric_is_made_once():
    library = Library()
    tell = MetricRecorder(lambda: library)
    tell(COUNT, kind="a")
    tell(COUNT, 2, kind="b")
    tell(LEVEL, 0)
    tell(TIMES, 1.5)
    assert library.told == [
        ("rigface_things", 1.0, {"kind": "a"}), ("rigface_things", 2, {"kind": "b"}),
        ("rigface_level", 0, {}), ("rigface_seconds", 1.5, {}),
    ]  # fmt: skip
    assert library.made == [
        ("rigface_things", {}),
        ("rigface_level", {}),
        ("rigface_seconds", {"boundaries": [1.0, 2.0]}),
    ]


def test_last_value_of_gauge_is_repeated(monkeypatch):
    monkeypatch.setattr("rigface.telemetry.instruments.REPEAT_S", 0.01)
    library = Library()
    tell = MetricRecorder(lambda: library)
    tell(COUNT, kind="a")
    for value in (3, 4):
        tell(LEVEL, value)
    end = time.monotonic() + 5
    while library.told.count(("rigface_level", 4, {})) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert library.told.count(("rigface_level", 4, {})) >= 3
    assert [library.told.count((COUNT.name, 1.0, {"kind": "a"})), library.told.count((LEVEL.name, 3, {}))] == [1, 1]


def test_counter_ignores_zero():
    library = Library()
    MetricRecorder(lambda: library)(COUNT, 0, kind="a")
    assert library.told == []


def test_wrong_labels_are_refused_without_a_library():
    tell = MetricRecorder(lambda: None)
    tell(COUNT, kind="a")
    with pytest.raises(ValueError, match=r"want labels \['kind'\], got \['king'\]"):
        tell(COUNT, king="a")


def test_metric_definition_is_checked():
    with pytest.raises(ValueError, match="without _total"):
        Metric("rigface_things_total", "counter", "things")
    with pytest.raises(ValueError, match="histograms alone"):
        Metric("rigface_seconds", "histogram", "s")
    assert TIMES.series == ("rigface_seconds_bucket", "rigface_seconds_count", "rigface_seconds_sum")


def test_metrics_of_jobs_and_service_share_no_name():
    from pipelines.telemetry import metrics as jobs
    from serve.telemetry import metrics as service

    both = [*jobs.ALL, *service.ALL]
    names = [m.name for m in both]
    assert len(set(names)) == len(names) > 25
    assert all(name.startswith("rigface_") for name in names)
    assert all(list(m.buckets) == sorted(set(m.buckets)) for m in both)
    private = {"uri", "unit", "video", "request_id", "key", "identity"}
    assert not any(private & set(m.labels) for m in both)


def test_recording_is_cheap():
    tell = MetricRecorder(lambda: None)
    began = time.process_time()
    for _ in range(10_000):
        tell(COUNT, kind="a")
    each = (time.process_time() - began) / 10_000
    assert each < 50e-6  # 2 us on a busy machine, and 2 more in Ray; a unit of work tells 25 numbers
