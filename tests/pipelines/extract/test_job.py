"""The whole job on fakes: what lies in the output, and what a second run does and does not do."""

import io
import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cluster import session
from pipelines.extract import dataflow
from pipelines.extract import job as extract_module
from pipelines.extract.config import Pool, debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import BREAKER, extract
from pipelines.extract.layout import error_path
from pipelines.extract.quarantine import Quarantine
from pipelines.extract.stages import MaskAndScore
from rigface import schema
from rigface.errors import MissingAsset, OutputBusy, PlanError
from rigface.image import decode, decode_mask
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.drills.poison import PoisonedLook
from tests.pipelines.conftest import faces_of, inputs_of


def by_name(out):
    return {row["uri"].rsplit("/", 1)[-1]: row for row in inputs_of(out).to_pylist()}


def test_every_input_is_a_row(finished, zoo):
    rows = by_name(finished)
    assert rows.keys() == {p.name for p in zoo.iterdir()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "two people.mp4": "ok",
        "ünïcode 顔 (copy).mp4": "ok",
        "short.mp4": "ok",
        "portrait.jpg": "ok",
        "mp4 named jpg.jpg": "ok",
        "nobody.mp4": "no_face",
        "text.mp4": "error",
        "empty.mp4": "error",
    }
    assert rows["empty.mp4"]["reason"] == "empty file"
    assert rows["text.mp4"]["stage"] == "decode"


def test_counts_are_those_of_the_videos(finished):
    rows = by_name(finished)
    counted = {n: (r["frames"], r["faces"], r["tracks"], r["chunks"]) for n, r in rows.items() if r["status"] == "ok"}
    assert counted == {
        "two people.mp4": (20, 40, 2, 3),  # chunks of at most 8 frames, tracks joined across them
        "ünïcode 顔 (copy).mp4": (30, 30, 1, 4),
        "short.mp4": (5, 5, 1, 1),
        "mp4 named jpg.jpg": (5, 5, 1, 1),
        "portrait.jpg": (1, 1, 1, 1),
    }
    assert (rows["nobody.mp4"]["frames"], rows["nobody.mp4"]["faces"]) == (10, 0)
    assert (rows["two people.mp4"]["width"], rows["two people.mp4"]["height"]) == (128, 96)


def test_each_frame_and_face_is_there_once(finished):
    faces = faces_of(finished)
    assert len(faces) == 81
    keys = list(zip(*(faces[name].to_pylist() for name in ("uri", "frame_index", "track"))))
    assert len(set(keys)) == len(keys)
    long = [row for row in faces.select(["uri", "frame_index"]).to_pylist() if "顔" in row["uri"]]
    assert [row["frame_index"] for row in long] == list(range(30))


def test_tracks_follow_the_person_across_chunks(finished):
    faces = faces_of(finished).select(["uri", "track", "albedo"]).to_pylist()
    people = {(row["track"], max(range(2), key=lambda k: row["albedo"][k])) for row in faces if "two" in row["uri"]}
    red = {row["track"] for row in faces if "two" in row["uri"] and row["albedo"][0] < 0.4 and row["albedo"][1] < 0.4}
    assert len({track for track, _ in people}) == 2
    assert len(red) <= 1


def test_rows_are_complete_and_typed(finished):
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


def test_head_and_detector_stand_in_every_file(finished):
    for path in (finished / "faces").rglob("*.parquet"):
        part = pq.read_schema(path)
        assert schema.head_of(part) == fakes.HEAD
        assert schema.detector_of(part) == fakes.DETECTOR


def test_other_engines_read_it(finished):
    import duckdb

    parts = f"read_parquet('{finished}/faces/**/*.parquet')"
    assert duckdb.sql(f"select count(*), count(distinct uri) from {parts}").fetchall() == [(81, 5)]
    statuses = duckdb.sql(f"select status, count(*) from '{finished}/inputs/*.parquet' group by 1").fetchall()
    assert dict(statuses) == {"ok": 5, "no_face": 1, "error": 2}


def test_about_says_what_it_was_made_with(finished):
    about = json.loads((finished / "rigface.json").read_text())
    assert about["settings"]["chunk_frames"] == 8
    assert about["head"]["name"] == about["detector"]["name"] == "fake"
    assert {"ray", "numpy"} <= about["packages"].keys()
    assert len(about["runs"]) == 1


def test_second_run_does_nothing_and_needs_no_ray(finished, zoo, silent, monkeypatch, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    monkeypatch.setattr(session, "connected", lambda config: pytest.fail("Ray was started"))
    summary = extract(debug((str(zoo),), str(out)), silent)
    assert summary.done["units"] == 0
    assert summary.inputs == 8
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")} == before


@pytest.mark.slow
def test_only_what_is_new_or_changed_is_done(finished, zoo, silent, tmp_path):
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
    assert len(new) == 14  # nothing is left of the six frames it had before


@pytest.mark.slow
def test_lost_objects_come_back(finished, zoo, silent, tmp_path):
    """A part that was deleted by hand, an input row, a folder of foreign files: the next run mends what is ours."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    part = next(p for p in (out / "faces").rglob("*.parquet") if p.name != "schema.parquet")
    part.unlink()
    for path in (out / "inputs").iterdir():
        path.unlink()
    (out / "faces" / "note.txt").write_text("mine")
    summary = extract(debug((str(zoo),), str(out)), silent)
    assert summary.done["units"] == 1
    assert faces_of_parquet(out).equals(faces_of(finished))
    assert inputs_of(out).equals(inputs_of(finished))


def faces_of_parquet(out):
    """As `faces_of`, beside foreign files."""
    (out / "faces" / "note.txt").unlink()
    return faces_of(out)


@pytest.mark.slow
def test_errors_stay_until_they_are_asked_for_again(finished, zoo, silent, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    output = FaceDataset(Store(str(out)))
    uri = str(zoo / "short.mp4")
    part = next(
        p for p in output.store.paths("faces", ".parquet") if output.store.table(p)["uri"].to_pylist()[:1] == [uri]
    )
    unit = part.rsplit("/", 1)[-1].removesuffix(".parquet")
    failed = {
        **output.record(unit),
        "status": "error",
        "stage": "decode",
        "reason": "no such file",
        "frames": 0,
        "faces": 0,
    }
    output.store.delete(part)  # as a run would have left it that could not read this file
    output.store.publish(error_path(unit), json.dumps(failed).encode())
    output.remove_inputs([uri])
    deaths = Quarantine(output.store)
    for i in range(2):
        deaths.add(
            f"unit {i}", {"uri": uri, "chunks": 3}, {"stage": "decode", "reason": "it crashed", "crash": "SIGSEGV"}
        )

    config = debug((str(zoo),), str(out))
    assert extract(config, silent).done["units"] == 0
    assert by_name(out)["short.mp4"]["reason"] == "no such file"
    assert deaths.verdict("unit 2", {"uri": uri, "chunks": 3})["reason"] == "it crashed"
    assert extract(replace(config, retry_errors=True), silent).done["units"] == 1
    assert deaths.verdict("unit 2", {"uri": uri, "chunks": 3}) is None
    assert inputs_of(out).equals(inputs_of(finished))
    assert faces_of(out).drop_columns("identity").equals(faces_of(finished).drop_columns("identity"))


def test_other_settings_are_refused_by_name(finished, zoo, silent):
    config = debug((str(zoo),), str(finished))
    with pytest.raises(PlanError, match=r"chunk_frames: 8 -> 5.*--overwrite"):
        extract(replace(config, settings=replace(config.settings, chunk_frames=5)), silent)


def test_foreign_folder_is_not_touched(zoo, silent, tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(PlanError, match="not a dataset of ours"):
        extract(replace(debug((str(zoo),), str(tmp_path)), overwrite=True), silent)
    assert (tmp_path / "faces" / "holiday.jpg").read_bytes() == b"dear"


def test_overwrite_removes_what_is_ours_and_nothing_else(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "note.txt").write_text("mine")
    settings = debug().settings
    output = FaceDataset(Store(str(out)))
    output.open(settings, fakes.HEAD, fakes.DETECTOR, overwrite=True)
    assert not len(output.done())
    assert len(output.inputs()) == 0
    assert not output.plans()
    assert (out / "note.txt").exists()


def test_two_runs_at_once_refuse_each_other(finished, zoo, silent):
    with lock.hold(Store(str(finished))), pytest.raises(OutputBusy, match="being written by another run"):
        extract(debug((str(zoo),), str(finished)), silent)


def test_nothing_to_read_is_said(tmp_path, silent):
    (tmp_path / "in").mkdir()
    with pytest.raises(PlanError, match="no input found"):
        extract(debug((str(tmp_path / "in"),), str(tmp_path / "out")), silent)
    assert not (tmp_path / "out").exists()


def test_progress_of_a_log_says_counts(zoo):
    from rich.console import Console

    from pipelines.extract.progress import Progress

    text = io.StringIO()
    with Progress(Console(file=text)) as progress:
        progress.expect(inputs=2, units=4, frames=40)
        progress.unit({"status": "ok", "frames": 10, "faces": 20, "seconds": {"decode": 0.5}}, expected=10)
        progress.closed({"status": "ok"})
        assert progress.line().startswith("videos 1/2 · frames 10 · faces 20 (")


@pytest.mark.slow
def test_a_pool_per_stage_and_many_units_come_to_the_same(finished, zoo, silent, tmp_path, monkeypatch):
    """As on a cluster: every stage in actors of its own, faces handed from process to process, units from a file."""
    monkeypatch.setattr(dataflow, "MANY", 1)
    config = debug((str(zoo),), str(tmp_path / "out"))
    small = Pool(cpus=0.5)
    config = replace(config, look=Pool(actors=2, most=3, cpus=0.5), reconstruct=small, finish=small, write=small)
    extract(config, silent)
    assert faces_of(tmp_path / "out").equals(faces_of(finished))
    assert inputs_of(tmp_path / "out").equals(inputs_of(finished))


@pytest.mark.slow
def test_window_by_window_it_is_the_same_dataset_and_old_plans_are_found(finished, zoo, silent, tmp_path, monkeypatch):
    """As with millions of inputs: three at a time, of which only those plans are held."""
    monkeypatch.setattr(extract_module, "WINDOW", 3)
    out = tmp_path / "out"
    summary = extract(debug((str(zoo),), str(out)), silent)
    assert summary.inputs == 8
    assert faces_of(out).equals(faces_of(finished))
    assert inputs_of(out).equals(inputs_of(finished))
    held = []
    real = FaceDataset.plans
    monkeypatch.setattr(FaceDataset, "plans", lambda self, uris=None: held.append(real(self, uris)) or held[-1])
    monkeypatch.setattr(session, "connected", lambda config: pytest.fail("Ray was started"))
    assert extract(debug((str(zoo),), str(out)), silent).done["units"] == 0
    assert [len(plans) for plans in held] == [3, 3, 2]


@pytest.mark.slow
def test_what_a_stage_raises_on_purpose_arrives_as_itself(ray_cluster, zoo, silent, tmp_path, monkeypatch):
    real = dataflow.arguments

    def without_network(*arguments):
        made = real(*arguments)
        return {**made, "finish": (RaisesMissingAsset, {})}

    monkeypatch.setattr(dataflow, "arguments", without_network)
    with pytest.raises(MissingAsset) as raised:
        extract(debug((str(zoo),), str(tmp_path / "out")), silent)
    assert str(raised.value) == "no weights here"  # and nothing of Ray's
    monkeypatch.undo()
    extract(debug((str(zoo),), str(tmp_path / "out")), silent)  # and the output is whole, and free, after it
    assert len(faces_of(tmp_path / "out")) == 81


@pytest.mark.slow
def test_on_s3_it_is_the_same_dataset(finished, zoo, bucket, silent):
    """Videos on a disk, the dataset in a bucket; then some of the videos in the bucket, too."""
    import boto3

    out = f"{bucket}/{zoo.name}/out"
    extract(debug((str(zoo),), out), silent)
    store = Store(out)
    tables = [store.table(path) for path in store.paths("faces", ".parquet")]
    keys = [("uri", "ascending"), ("frame_index", "ascending"), ("track", "ascending")]
    assert pa.concat_tables(tables).sort_by(keys).combine_chunks().equals(faces_of(finished))
    assert lock.held(store) == ""
    assert extract(debug((str(zoo),), out), silent).done["units"] == 0

    for name in ("short.mp4", "portrait.jpg", "text.mp4"):
        boto3.client("s3").upload_file(str(zoo / name), "faces", f"videos/{name}")
    summary = extract(debug((f"{bucket}/videos/",), out), silent)
    assert {status: one.inputs for (status, _), one in summary.outcomes.items()} == {"ok": 2, "error": 1}


def test_an_input_is_looked_into_with_the_storage_of_now(zoo, bucket, monkeypatch):
    """The child that opens inputs is kept; it must not keep an endpoint that has changed since."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    import boto3

    from pipelines.extract.plan import survey

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
        assert survey([f"{bucket}/now/short.mp4"], settings, 60.0)[0]["reason"] == "no such file"
    assert survey([f"{bucket}/now/short.mp4"], settings, 60.0)[0]["status"] == "ok"
    server.shutdown()


@pytest.mark.slow
def test_a_long_film_that_kills_its_decoder_ends_as_a_row_and_not_the_job(
    ray_cluster, zoo, silent, tmp_path, monkeypatch
):
    """With as many units as would stop the job, if each counted."""
    folder, out, tries = tmp_path / "in", tmp_path / "out", tmp_path / "tries"
    folder.mkdir()
    shutil.copy(zoo / "short.mp4", folder)
    film = fakes.video(folder / "poison.mp4", (0.1,), frames=2 * (BREAKER + 5))
    real = dataflow.arguments

    def poisoned(*arguments):
        made = real(*arguments)
        return {**made, "look": (PoisonedLook, {**made["look"][1], "tries": str(tries)})}

    monkeypatch.setattr(dataflow, "arguments", poisoned)
    config = debug((str(folder),), str(out))
    config = replace(config, settings=replace(config.settings, chunk_frames=2))
    assert extract(config, silent).done["units"] == BREAKER + 5 + 3
    row = by_name(out)["poison.mp4"]
    assert (row["status"], row["stage"], row["chunks"]) == ("error", "decode", BREAKER + 5)
    assert row["reason"].endswith("decode crashed 2 times on it: SIGSEGV")
    assert tries.read_text().splitlines() == [str(film)] * 4  # two units, twice each
    assert by_name(out)["short.mp4"]["faces"] == 5


class RaisesMissingAsset(MaskAndScore):
    """A stage whose model is not on the node it runs on."""

    def __init__(self) -> None:
        pass

    def __call__(self, unit):
        raise MissingAsset("no weights here")
