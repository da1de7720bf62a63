"""The extract job on fakes: content of the dataset, and further runs on it."""

import io
import json
import shutil
from collections import deque
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.cluster import session
from pipelines.extract import dataflow, planning
from pipelines.extract.config import debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import CRASH_WINDOW, check_crashes, extract
from pipelines.extract.layout import error_path, part_path
from pipelines.extract.plan import UnitPlan, units_of
from pipelines.extract.plan_store import PlanStore
from pipelines.extract.quarantine import Crash, Quarantine
from pipelines.extract.stages import MaskAndScore
from pipelines.extract.survey import survey
from pipelines.extract.unit import Record, records_json
from rigface import schema
from rigface.errors import JobBroken, MissingAsset, OutputBusy, PlanError
from rigface.image import decode, decode_mask
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.drills.poison import DyingFrameProcessor, poisoned
from tests.pipelines.conftest import faces_of, inputs_of


def unit_of(out, name: str) -> UnitPlan:
    """The unit of an input that has one."""
    dataset = FaceDataset(Store(str(out)))
    (plan,) = [plan for plan in dataset.plans.latest() if plan.uri.endswith(f"/{name}")]
    (unit,) = units_of(plan, dataset.info()["config"])
    return unit


def by_name(out):
    return {row["uri"].rsplit("/", 1)[-1]: row for row in inputs_of(out).to_pylist()}


def test_every_input_has_a_row(finished, zoo):
    rows = by_name(finished)
    assert rows.keys() == {p.name for p in zoo.iterdir()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "two people.mp4": "ok",
        "ünïcode 顔 (copy).mp4": "ok",
        "short.mp4": "ok",
        "portrait.jpg": "ok",
        "mp4 named jpg.jpg": "ok",
        "no face.mp4": "no_face",
        "text.mp4": "error",
        "empty.mp4": "error",
    }
    assert rows["empty.mp4"]["reason"] == "empty file"
    assert rows["text.mp4"]["stage"] == "decode"


def test_rows_of_inputs_count_frames_faces_and_tracks(finished):
    rows = by_name(finished)
    counted = {n: (r["frames"], r["faces"], r["tracks"], r["chunks"]) for n, r in rows.items() if r["status"] == "ok"}
    assert counted == {
        "two people.mp4": (20, 40, 2, 3),  # chunks of at most 8 frames, tracks joined across them
        "ünïcode 顔 (copy).mp4": (30, 30, 1, 4),
        "short.mp4": (5, 5, 1, 1),
        "mp4 named jpg.jpg": (5, 5, 1, 1),
        "portrait.jpg": (1, 1, 1, 1),
    }
    assert (rows["no face.mp4"]["frames"], rows["no face.mp4"]["faces"]) == (10, 0)
    assert (rows["two people.mp4"]["width"], rows["two people.mp4"]["height"]) == (128, 96)


def test_each_face_of_each_frame_has_one_row(finished):
    faces = faces_of(finished)
    assert len(faces) == 81
    keys = list(zip(*(faces[name].to_pylist() for name in ("uri", "frame_index", "track"))))
    assert len(set(keys)) == len(keys)
    long = [row for row in faces.select(["uri", "frame_index"]).to_pylist() if "顔" in row["uri"]]
    assert [row["frame_index"] for row in long] == list(range(30))


def test_tracks_follow_a_person_across_chunks(finished):
    faces = faces_of(finished).select(["uri", "track", "albedo"]).to_pylist()
    people = {(row["track"], max(range(2), key=lambda k: row["albedo"][k])) for row in faces if "two" in row["uri"]}
    red = {row["track"] for row in faces if "two" in row["uri"] and row["albedo"][0] < 0.4 and row["albedo"][1] < 0.4}
    assert len({track for track, _ in people}) == 2
    assert len(red) <= 1


def test_rows_of_faces_are_complete_and_typed(finished):
    faces = faces_of(finished)
    assert faces.schema.equals(schema.faces_schema(fakes.HEAD, fakes.DETECTOR), check_metadata=False)
    empty = {name for name in faces.column_names if faces[name].null_count == len(faces)}
    assert empty <= {"bfm_expression", "reason"}
    assert set(faces["status"].to_pylist()) == {"ok"}
    params = schema.params_of(faces, fakes.HEAD)
    assert params.light.shape == (len(faces), 9, 3)
    row = faces.slice(0, 1).to_pylist()[0]
    assert decode(row["crop"]).shape == (*decode_mask(row["mask"]).shape, 3) == (512, 512, 3)
    vectors = faces.select(["uri", "track", "identity_vector"]).to_pylist()
    have = {(v["uri"], v["track"]) for v in vectors if v["identity_vector"] is not None}
    assert have == {(v["uri"], v["track"]) for v in vectors}


def test_every_part_names_head_and_detector(finished):
    for path in (finished / "faces").rglob("*.parquet"):
        part = pq.read_schema(path)
        assert schema.head_of(part) == fakes.HEAD
        assert schema.detector_of(part) == fakes.DETECTOR


def test_duckdb_reads_the_dataset(finished):
    import duckdb

    parts = f"read_parquet('{finished}/faces/**/*.parquet')"
    assert duckdb.sql(f"select count(*), count(distinct uri) from {parts}").fetchall() == [(81, 5)]
    statuses = duckdb.sql(f"select status, count(*) from '{finished}/inputs/*.parquet' group by 1").fetchall()
    assert dict(statuses) == {"ok": 5, "no_face": 1, "error": 2}


def test_run_info_has_settings_models_and_packages(finished):
    info = json.loads((finished / "rigface.json").read_text())
    assert info["settings"]["chunk_frames"] == 8
    assert info["head"]["name"] == info["detector"]["name"] == "fake"
    assert {"ray", "numpy"} <= info["packages"].keys()
    assert len(info["runs"]) == 1


def test_second_run_does_nothing_and_starts_no_ray(finished, zoo, silent, monkeypatch, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    monkeypatch.setattr(session, "connected", lambda config: pytest.fail("Ray was started"))
    summary = extract(replace(debug((str(zoo),), str(out)), in_process="never"), silent)
    assert summary.done["units"] == 0
    assert summary.inputs == 8
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")} == before


@pytest.mark.slow
def test_only_new_and_changed_inputs_are_processed(finished, zoo, silent, tmp_path):
    out, more = tmp_path / "out", tmp_path / "more"
    shutil.copytree(finished, out)
    more.mkdir()
    fakes.video(more / "new.mp4", (0.9,), frames=6)
    summary = extract(debug((str(zoo), str(more)), str(out)), silent)
    assert (summary.done["units"], summary.inputs) == (1, 9)

    fakes.video(more / "new.mp4", (0.9, 0.2), frames=7, seed=3)  # other content under the same name
    summary = extract(debug((str(more),), str(out)), silent)
    assert summary.done["units"] == 1
    assert by_name(out)["new.mp4"]["frames"] == 7
    new = [row for row in faces_of(out).select(["uri", "frame_index"]).to_pylist() if row["uri"].endswith("new.mp4")]
    assert len(new) == 14  # none of the six frames of the first content


@pytest.mark.slow
def test_deleted_objects_are_made_again_and_foreign_files_stay(finished, zoo, silent, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    shard = unit_of(out, "short.mp4").shard
    (out / part_path(shard)).unlink()
    lost = FaceDataset(Store(str(finished))).records(shard)
    assert len(lost) > 1
    for path in (out / "inputs").iterdir():
        path.unlink()
    (out / "faces" / "note.txt").write_text("mine")
    summary = extract(debug((str(zoo),), str(out)), silent)
    assert summary.done["units"] == len(lost)
    assert faces_of_parquet(out).equals(faces_of(finished))
    assert inputs_of(out).equals(inputs_of(finished))


def faces_of_parquet(out):
    """As `faces_of`, without the foreign file."""
    (out / "faces" / "note.txt").unlink()
    return faces_of(out)


@pytest.mark.slow
def test_errors_stay_until_retry_errors(finished, zoo, silent, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    output = FaceDataset(Store(str(out)))
    uri = str(zoo / "short.mp4")
    unit = unit_of(out, "short.mp4")
    (record,) = [r for r in output.records(unit.shard) if r.uri == uri]
    failed = replace(record, status="error", stage="decode", reason="no such file", frames=0, faces=0)
    output.drop(unit.shard, lambda record: record.uri == uri)  # as after a run that could not read this file
    output.plans.add([replace(output.plans.load([uri])[uri], shards=("0" * 24,))])
    output.store.publish(error_path("0" * 24), records_json([failed]).encode())
    output.reopen([uri])
    quarantine, crash = Quarantine(output.store), Crash("decode", "it crashed", "SIGSEGV")
    crashed = [UnitPlan(f"unit {i}", uri, i, 3, None, 1) for i in range(3)]
    for unit_plan in crashed[:2]:
        quarantine.add(unit_plan, crash)

    config = debug((str(zoo),), str(out))
    assert extract(config, silent).done["units"] == 0
    assert by_name(out)["short.mp4"]["reason"] == "no such file"
    assert quarantine.verdict(crashed[2]) == crash
    assert extract(replace(config, retry_errors=True), silent).done["units"] == 1
    assert quarantine.verdict(crashed[2]) is None
    assert inputs_of(out).equals(inputs_of(finished))
    assert faces_of(out).equals(faces_of(finished))


def test_run_with_other_settings_is_refused_by_name(finished, zoo, silent):
    config = debug((str(zoo),), str(finished))
    with pytest.raises(PlanError, match=r"chunk_frames: 8 -> 5.*--overwrite"):
        extract(replace(config, settings=replace(config.settings, chunk_frames=5)), silent)


def test_folder_with_other_files_is_refused_and_not_changed(zoo, silent, tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(PlanError, match="not an output of `rigface extract`"):
        extract(replace(debug((str(zoo),), str(tmp_path)), overwrite=True), silent)
    assert (tmp_path / "faces" / "holiday.jpg").read_bytes() == b"dear"


def test_overwrite_removes_only_the_dataset(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "note.txt").write_text("mine")
    settings = debug().settings
    output = FaceDataset(Store(str(out)))
    output.begin_run(settings, fakes.HEAD, fakes.DETECTOR, overwrite=True)
    assert not len(output.done())
    assert len(output.inputs()) == 0
    assert not list(output.plans.latest())
    assert (out / "note.txt").exists()


def test_second_run_on_a_locked_dataset_is_refused(finished, zoo, silent):
    with lock.hold(Store(str(finished))), pytest.raises(OutputBusy, match="being written by another run"):
        extract(debug((str(zoo),), str(finished)), silent)


def test_folder_without_inputs_is_refused_before_anything_is_written(tmp_path, silent):
    (tmp_path / "in").mkdir()
    with pytest.raises(PlanError, match="no input found"):
        extract(debug((str(tmp_path / "in"),), str(tmp_path / "out")), silent)
    assert not (tmp_path / "out").exists()


def test_progress_line_has_counts():
    from rich.console import Console

    from pipelines.extract.progress import Progress

    text = io.StringIO()
    with Progress(Console(file=text)) as progress:
        progress.expect(inputs=2, units=4, frames=40)
        progress.unit_done(Record("unit", "a.mp4", 0, frames=10, faces=20, seconds={"decode": 0.5}), expected=10)
        progress.input_done(None)
        assert progress.line().startswith("videos 1/2 · frames 10 · faces 20 (")


@pytest.mark.slow
def test_pool_per_stage_on_ray_and_units_from_a_file_give_the_same_dataset(finished_on_ray, finished):
    assert faces_of(finished_on_ray).equals(faces_of(finished))
    assert inputs_of(finished_on_ray).equals(inputs_of(finished))


@pytest.mark.slow
def test_small_windows_give_the_same_dataset_and_hold_few_plans(finished, zoo, silent, tmp_path, monkeypatch):
    """As with millions of inputs: three at a time, with their plans alone in memory, and the units of few."""
    for name, limit in (("WINDOW", 3), ("GROUP_UNITS", 6)):
        monkeypatch.setattr(planning, name, limit)
    out = tmp_path / "out"
    summary = extract(debug((str(zoo),), str(out)), silent)
    assert summary.inputs == 8
    assert faces_of(out).equals(faces_of(finished))
    assert inputs_of(out).equals(inputs_of(finished))
    held = []
    real = PlanStore.by_part
    monkeypatch.setattr(PlanStore, "by_part", lambda self, uris: (held.append(p) or p for p in real(self, uris)))
    monkeypatch.setattr(session, "connected", lambda config: pytest.fail("Ray was started"))
    assert extract(debug((str(zoo),), str(out)), silent).done["units"] == 0
    assert [len(plans) for plans in held] == [3, 3, 3, 3, 2, 2]  # of the dates, and of the plans, of each window


@pytest.mark.slow
def test_expected_error_of_a_stage_reaches_the_caller(ray_cluster, zoo, silent, tmp_path, monkeypatch):
    real, config = dataflow.stage_arguments, debug((str(zoo / "short.mp4"),), str(tmp_path / "out"))

    def without_network(*arguments):
        return {**real(*arguments), "mask_and_score": (RaisesMissingAsset, {})}

    monkeypatch.setattr(dataflow, "stage_arguments", without_network)
    with pytest.raises(MissingAsset) as raised:
        extract(replace(config, in_process="never"), silent)
    assert str(raised.value) == "no weights here"  # without Ray's text
    monkeypatch.undo()
    extract(config, silent)  # the dataset is unlocked and whole after it
    assert len(faces_of(tmp_path / "out")) == 5


@pytest.mark.slow
def test_s3_holds_the_same_dataset(finished, zoo, bucket, silent):
    """Videos on a disk, the dataset in a bucket; then some of the videos in the bucket, too."""
    import boto3

    out = f"{bucket}/{zoo.name}/out"
    videos = tuple(str(zoo / name) for name in ("short.mp4", "two people.mp4", "text.mp4"))
    extract(debug(videos, out), silent)
    store = Store(out)
    tables = [store.table(path) for path in store.paths("faces", ".parquet")]
    keys = [("uri", "ascending"), ("frame_index", "ascending"), ("track", "ascending")]
    expected = faces_of(finished).filter(pc.is_in(pc.field("uri"), pa.array(videos)))
    assert pa.concat_tables(tables).sort_by(keys).equals(expected)
    assert len(expected) == 45
    assert lock.held(store) == ""
    assert extract(debug(videos, out), silent).done["units"] == 0

    for name in ("short.mp4", "portrait.jpg", "text.mp4"):
        boto3.client("s3").upload_file(str(zoo / name), "faces", f"videos/{name}")
    summary = extract(debug((f"{bucket}/videos/",), out), silent)
    assert {status: count.inputs for (status, _), count in summary.outcomes.items()} == {"ok": 2, "error": 1}


def test_survey_follows_a_changed_storage_endpoint(zoo, bucket, monkeypatch):
    """The child process that opens inputs is kept; it must not keep an old endpoint."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    import boto3

    boto3.client("s3").upload_file(str(zoo / "short.mp4"), "faces", "now/short.mp4")
    settings = debug((), "").settings

    class Empty(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        do_GET = do_HEAD

    server = HTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        assert survey([f"{bucket}/now/short.mp4"], settings, 60.0)[0].reason == "no such file"
    assert survey([f"{bucket}/now/short.mp4"], settings, 60.0)[0].status == "ok"
    server.shutdown()


@pytest.mark.slow
def test_long_video_that_crashes_the_decoder_becomes_a_row(zoo, silent, tmp_path, monkeypatch):
    """It has as many units as would stop the job if each crash counted."""
    folder, out, tries = tmp_path / "in", tmp_path / "out", tmp_path / "tries"
    folder.mkdir()
    shutil.copy(zoo / "short.mp4", folder)
    video = fakes.video(folder / "poison.mp4", (0.1,), frames=2 * (CRASH_WINDOW + 5))
    monkeypatch.setattr(dataflow, "stage_arguments", poisoned(dataflow.stage_arguments, tries, DyingFrameProcessor))
    config = debug((str(folder),), str(out))
    config = replace(config, settings=replace(config.settings, chunk_frames=2))
    assert extract(config, silent).done["units"] == CRASH_WINDOW + 5 + 3
    row = by_name(out)["poison.mp4"]
    assert (row["status"], row["stage"], row["chunks"]) == ("error", "decode", CRASH_WINDOW + 5)
    assert row["reason"].endswith("decode crashed 2 times on it: SIGSEGV")
    assert tries.read_text().splitlines() == [str(video)] * 4  # two units, twice each
    assert by_name(out)["short.mp4"]["faces"] == 5


def test_many_crashes_of_one_kind_stop_the_job():
    crashes = deque([None] * 19 + ["SIGSEGV"] * 20, maxlen=CRASH_WINDOW)
    check_crashes(crashes)  # the window is not full
    crashes.append("SIGSEGV")
    with pytest.raises(JobBroken, match="21 of the last 40 units crashed with SIGSEGV"):
        check_crashes(crashes)
    check_crashes(deque([None] * CRASH_WINDOW, maxlen=CRASH_WINDOW))  # bad inputs alone never stop it


class RaisesMissingAsset(MaskAndScore):
    """A stage whose model is not on its node."""

    def __init__(self) -> None:
        pass

    def __call__(self, unit):
        raise MissingAsset("no weights here")
