"""Metrics of the jobs: exact counts, and their series at the Prometheus endpoint."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pipelines.extract.layout import records_of
from pipelines.extract.stages import DetectFaces, StageActor, measured
from pipelines.extract.unit import Shard
from pipelines.inputs import object_cache
from pipelines.telemetry import metrics
from pipelines.telemetry.worker_process import WorkerProcess
from rigface.storage import objects
from rigface.telemetry.instruments import MetricRecorder
from rigface.testing import fakes
from tests.pipelines.extract.test_stages import SETTINGS, CrashesOn, planned
from tests.scrape import scraped, total


@pytest.fixture
def recorded(monkeypatch):
    """The numbers recorded while a test runs: (name, value, labels)."""
    out = []

    class ListRecorder(MetricRecorder):
        def __call__(self, measure, value=1.0, **labels):
            super().__call__(measure, value, **labels)
            out.append((measure.name, value, labels))

    monkeypatch.setattr(metrics, "record", ListRecorder(lambda: None))
    return out


class FailsOnOne:
    """Fails on the second face."""

    name = "mask_and_score"

    def __call__(self, unit):
        with unit.timed("parse"):
            unit.fail(1, self.name, "as this test wants")


def read_from_s3(proxy, monkeypatch):
    """One retried request; a video that is copied, and another that evicts the copy."""
    monkeypatch.setattr(object_cache, "READ_AHEAD_BYTES", 0)
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
        [(DetectFaces, {"settings": SETTINGS, "silence_s": 30.0, "out": str(tmp_path / "out")}), (FailsOnOne, {})],
        str(tmp_path / "out"),
    )
    actor(Shard([unit]).to_arrow().select(["plans"]))
    actor._stages[0]._child(False).close()


def crash_a_child(tmp_path):
    """A unit whose child crashes at `decode`, twice."""
    clip = fakes.video(tmp_path / "bad.mp4", (0.5,), frames=4)
    stage = DetectFaces(SETTINGS, 30.0, str(tmp_path / "out"))
    stage._child(False).close()
    stage._children[False] = child = WorkerProcess(f"{CrashesOn.__module__}:CrashesOn", {"name": "bad.mp4"}, 30.0)
    unit = planned(clip)
    with measured(stage.name, unit):
        stage(unit)
    child.close()
    return unit


def test_stages_record_frames_faces_failures_and_seconds(recorded, tmp_path):
    fail_a_face(tmp_path)
    counted = {(name, *labels.values()): value for name, value, labels in recorded}
    assert counted["rigface_stage_frames", "detect_faces"] == counted["rigface_stage_frames", "mask_and_score"] == 10
    assert counted["rigface_faces",] == 20
    assert (counted["rigface_face_failures", "mask_and_score"], counted["rigface_face_failures", "detect_faces"]) == (
        1,
        0,
    )
    assert counted["rigface_step_seconds", "parse"] > 0
    assert 0 < counted["rigface_step_seconds", "decode"] < counted["rigface_stage_unit_seconds", "detect_faces"]


def test_each_crash_of_a_child_is_recorded(recorded, tmp_path):
    unit = crash_a_child(tmp_path)
    assert [labels for name, _, labels in recorded if name == "rigface_child_crashes"] == [{"step": "decode"}] * 2
    assert unit.record.status == "error"


def test_loss_that_is_not_finite_is_recorded(recorded):
    for loss in (0.5, float("nan"), float("inf")):
        metrics.step_of(0, 1, loss, 0.1, 0.1, 4)
    metrics.step_of(1, 1, float("nan"), 0.1, 0.1, 4)
    assert [value for name, value, _ in recorded if name == "rigface_train_loss_finite"] == [1, 0, 0]


def test_series_of_an_extract_job_are_at_the_endpoint(finished_on_ray, tmp_path, s3_behind, monkeypatch):
    monkeypatch.setenv("RIGFACE_CACHE", str(tmp_path / "cache"))

    def retries(text: str) -> float:
        return total(text, "rigface_storage_retries_total", operation="PutObject", reason="InternalError")

    before = retries(scraped())  # counters start with the process: other tests may have had retries
    read_from_s3(s3_behind, monkeypatch)
    fail_a_face(tmp_path)  # in the driver: that job has no failures
    crash_a_child(tmp_path)
    expected = [m for m in metrics.ALL if not m.name.startswith("rigface_train")]
    text = scraped(
        [m.series[-1] for m in expected],
        lambda text: total(text, "rigface_job_left", what="units") == 0 and retries(text) > before,
    )
    assert retries(text) == before + 1
    assert total(text, "rigface_video_cache_evictions_total") >= 1
    records = [
        record for path in finished_on_ray.rglob("faces/??/*.parquet") for record in records_of(pq.read_schema(path))
    ]
    assert total(text, "rigface_units_total", status="ok") >= len(records) > 0
    frames = sum(record.frames for record in records)
    assert all(
        total(text, "rigface_stage_frames_total", stage=name) >= frames > 0 for name in ("detect_faces", "write")
    )


@pytest.mark.slow
def test_series_of_a_training_are_at_the_endpoint(ray_cluster, tmp_path):
    from pipelines.examples.config import EncodeConfig
    from pipelines.examples.encode import encode
    from pipelines.train.config import debug
    from pipelines.train.job import train
    from rigface.model import checkpoint
    from rigface.testing import fake_examples, toy_start

    part = tmp_path / "pairs" / "examples" / "00" / "00part.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(fake_examples.table(24), part)
    checkpoint.save(tmp_path / "tiny", toy_start.shallow(kind="bridge"))
    encode(EncodeConfig(str(tmp_path / "pairs"), str(tmp_path / "latents"), str(tmp_path / "tiny")), lambda words: None)
    config = replace(
        debug(), examples=str(tmp_path / "latents"), out=str(tmp_path / "out"), start=str(tmp_path / "tiny"), steps=3,
        checkpoint_every=3, validate_every=3,
    )  # fmt: skip
    numbers = train(config, lambda words: None)
    expected = [m for m in metrics.ALL if m.name.startswith("rigface_train")]
    text = scraped([m.series[-1] for m in expected], lambda text: total(text, "rigface_train_step") == 3)
    assert total(text, "rigface_train_loss") == pytest.approx(numbers["loss"])
    assert total(text, "rigface_train_examples_total", rank="0") >= 3 * config.batch
