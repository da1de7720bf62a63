"""The jobs' metrics: counted exactly, and to be seen at the endpoint that Prometheus scrapes."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pipelines.extract.layout import record_of
from pipelines.extract.stages import DetectFaces, StageActor
from pipelines.extract.unit import Unit
from pipelines.inputs import object_cache
from pipelines.telemetry import metrics
from pipelines.telemetry.worker_process import WorkerProcess
from rigface.storage import objects
from rigface.telemetry.instruments import MetricRecorder
from rigface.testing import fakes
from tests.pipelines.extract.test_stages import SETTINGS, CrashesOn, planned
from tests.scrape import scraped, total


@pytest.fixture
def told(monkeypatch):
    """What is told while a test runs: (name, value, labels)."""
    out = []

    class Ear(MetricRecorder):
        def __call__(self, measure, value=1.0, **labels):
            super().__call__(measure, value, **labels)
            out.append((measure.name, value, labels))

    monkeypatch.setattr(metrics, "tell", Ear(lambda: None))
    return out


class FailsOnOne:
    """Fails on the second face."""

    name = "finish"

    def __call__(self, unit):
        with unit.timed("parse"):
            unit.fail(1, "finish", "told to")


def read_from_s3(proxy, monkeypatch):
    """One request that is tried again; a video that is copied, and another for which the copy goes."""
    monkeypatch.setattr(object_cache, "SPARE", 0)
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.001")
    faults = iter(["500"])
    monkeypatch.setattr(proxy, "draw", lambda: next(faults, ""))
    for name in "ab":
        objects.put("faces", f"measured/{name}", bytes(600_000))
        for _ in range(4):
            file = object_cache.CachedObject("faces", f"measured/{name}")
            for at in range(0, 600_000, 100_000):
                file.read_at(100_000, at)
            file.close()


def fail_a_face(tmp_path):
    """A unit of 10 frames and 20 faces through two stages, the second of which fails on one."""
    clip = fakes.video(tmp_path / "clip.mp4", (0.0, 0.5), frames=10)
    unit = planned(clip)
    actor = StageActor(
        [(DetectFaces, {"settings": SETTINGS, "silence_s": 30.0, "out": str(tmp_path / "out")}), (FailsOnOne, {})]
    )
    actor(Unit(unit.unit_id, unit.plan, unit.record).pack().select(["unit_id", "plan"]))
    actor._stages[0]._child.close()


def crash_a_child(tmp_path):
    """A unit whose child dies at `decode`, twice."""
    clip = fakes.video(tmp_path / "bad.mp4", (0.5,), frames=4)
    look = DetectFaces(SETTINGS, 30.0, str(tmp_path / "out"))
    look._child.close()
    look._child = child = WorkerProcess(f"{CrashesOn.__module__}:CrashesOn", {"name": "bad.mp4"}, 30.0)
    unit = planned(clip)
    with metrics.stage_of("look", unit):
        look(unit)
    child.close()
    return unit


def test_a_unit_is_counted_stage_by_stage(told, tmp_path):
    fail_a_face(tmp_path)
    counted = {(name, *labels.values()): value for name, value, labels in told}
    assert counted["rigface_stage_frames", "look"] == counted["rigface_stage_frames", "finish"] == 10
    assert counted["rigface_faces",] == 20
    assert (counted["rigface_face_failures", "finish"], counted["rigface_face_failures", "look"]) == (1, 0)
    assert counted["rigface_step_seconds", "parse"] > 0
    assert 0 < counted["rigface_step_seconds", "decode"] < counted["rigface_stage_unit_seconds", "look"]


def test_a_child_that_crashes_is_counted_each_time(told, tmp_path):
    unit = crash_a_child(tmp_path)
    assert [labels for name, _, labels in told if name == "rigface_child_crashes"] == [{"step": "decode"}] * 2
    assert unit.record["status"] == "error"


def test_a_loss_that_is_no_number_is_told_as_such(told):
    for loss in (0.5, float("nan"), float("inf")):
        metrics.step_of(0, 1, loss, 0.1, 0.1, 4)
    metrics.step_of(1, 1, float("nan"), 0.1, 0.1, 4)
    assert [value for name, value, _ in told if name == "rigface_train_loss_finite"] == [1, 0, 0]


def test_a_job_is_seen_at_the_endpoint_of_its_node(finished, tmp_path, s3_behind, monkeypatch):
    monkeypatch.setenv("RIGFACE_CACHE", str(tmp_path / "cache"))

    def asked_again(text: str) -> float:
        return total(text, "rigface_storage_retries_total", operation="PutObject", reason="InternalError")

    before = asked_again(scraped())  # a process counts from its beginning: other tests have met such trouble
    read_from_s3(s3_behind, monkeypatch)
    fail_a_face(tmp_path)  # here, in the driver: the finished job had nothing of the kind
    crash_a_child(tmp_path)
    ours = [m for m in metrics.ALL if not m.name.startswith("rigface_train")]
    text = scraped(
        [m.series[-1] for m in ours],
        lambda text: total(text, "rigface_job_left", what="units") == 0 and asked_again(text) > before,
    )
    assert asked_again(text) == before + 1
    assert total(text, "rigface_video_cache_evictions_total") >= 1
    units = sum(1 for path in finished.rglob("faces/??/*.parquet"))
    assert total(text, "rigface_units_total", status="ok") >= units > 0
    frames = sum(record_of(pq.read_schema(path))["frames"] for path in finished.rglob("faces/??/*.parquet"))
    assert all(total(text, "rigface_stage_frames_total", stage=name) >= frames > 0 for name in ("look", "write"))


@pytest.mark.slow
def test_a_training_is_seen_too(ray_cluster, tmp_path):
    from pipelines.examples.encode import EncodeConfig, encode
    from pipelines.train.config import debug
    from pipelines.train.job import train
    from rigface.model import checkpoint
    from rigface.testing import fake_examples

    part = tmp_path / "pairs" / "examples" / "00" / "00part.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(fake_examples.table(24), part)
    checkpoint.save(tmp_path / "tiny", checkpoint.tiny(kind="bridge"))
    encode(EncodeConfig(str(tmp_path / "pairs"), str(tmp_path / "latents"), str(tmp_path / "tiny")), lambda words: None)
    config = replace(
        debug(), examples=str(tmp_path / "latents"), out=str(tmp_path / "out"), start=str(tmp_path / "tiny"), steps=3,
        checkpoint_every=3, validate_every=3,
    )  # fmt: skip
    numbers = train(config, lambda words: None)
    ours = [m for m in metrics.ALL if m.name.startswith("rigface_train")]
    text = scraped([m.series[-1] for m in ours], lambda text: total(text, "rigface_train_step") == 3)
    assert total(text, "rigface_train_loss") == pytest.approx(numbers["loss"])
    assert total(text, "rigface_train_examples_total", rank="0") >= 3 * config.batch
