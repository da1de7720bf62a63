"""Jobs: queued on disk or S3, done a few at a time, stopped, removed, and taken up again after a restart."""

import asyncio
import json
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from rigface.errors import StorageGone
from rigface.image import decode, encode_png
from rigface.storage.store import Store
from serve.jobs.queue import JobQueue
from serve.jobs.store import Job, JobStore, _read_record
from tests.serve.conftest import photo
from tests.serve.jobs.conftest import settled, submit, wait


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_job_runs_and_its_results_are_served(serve_jobs, png, place, request, tmp_path):
    uri = str(tmp_path / "queue") if place == "disk" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    served = serve_jobs(uri)
    answer = submit(served, png, [{"yaw_deg": v} for v in (0.5, 10, 20)])
    assert answer.status_code == 202, answer.text
    name = answer.json()["id"]
    done = wait(served, name, "done")
    assert (done["finished"], done["total"], done["results"], done["media_type"]) == (3, 3, [0, 1, 2], "image/png")
    assert done["created_at"] <= done["started_at"] <= done["ended_at"] < done["expires_at"]
    result = served.get(f"/v1/jobs/{name}/results/2")
    assert decode(result.content).shape == (96, 80, 3)
    assert json.loads(result.headers["RigFace-Asked"])[0]["yaw_deg"] == pytest.approx(20, abs=0.01)
    assert served.get(f"/v1/jobs/{name}/results/3").status_code == 404
    assert served.get("/v1/jobs/..").status_code == 404
    assert served.get(f"/v1/jobs/{name[:-1]}0x").json()["type"].endswith("unknown-job")
    assert [j["id"] for j in served.get("/v1/jobs").json()["jobs"]] == [name]
    assert served.delete(f"/v1/jobs/{name}").status_code == 204
    assert served.get(f"/v1/jobs/{name}").status_code == 404
    assert not list(Store(uri).paths("jobs"))


def test_batch_is_bounded_by_its_mask_and_gives_each_face_its_own_edit(serve_jobs, two_faces):
    served, mask, png = serve_jobs(), np.zeros((96, 80, 3), np.uint8), encode_png(photo(77))  # that nobody analysed
    mask[:, :40] = 255
    faces = [{"face": 0, "edit": {"yaw_deg": 15}}, {"face": 1, "edit": {"yaw_deg": -15}}]
    body = {"kind": "batch", "edits": [{"faces": faces}, {"yaw_deg": 9}], "face": "all", "model": "preview"}
    files = {"picture": ("a.png", png), "mask": ("m.png", encode_png(mask)), "request": (None, json.dumps(body))}
    name = served.post("/v1/jobs", files=files).json()["id"]
    wait(served, name, "done")
    results = [served.get(f"/v1/jobs/{name}/results/{n}") for n in range(2)]
    asked = [[round(row["yaw_deg"]) for row in json.loads(r.headers["RigFace-Asked"])] for r in results]
    assert asked == [[15, -15], [9, 9]]
    for result in results:
        image = decode(result.content)
        assert np.array_equal(image[:, 40:], decode(png)[:, 40:])
        assert not np.array_equal(image[:, :40], decode(png)[:, :40])


def test_result_redirects_to_bucket_if_links_are_on(serve_jobs, png, bucket, tmp_path):
    served = serve_jobs(f"{bucket}/{tmp_path.name}", result_link_s=60)
    name = submit(served, png, [{"yaw_deg": 20}]).json()["id"]
    wait(served, name, "done")
    answer = served.get(f"/v1/jobs/{name}/results/0", follow_redirects=False)
    assert (answer.status_code, answer.content, answer.headers["Cache-Control"]) == (307, b"", "no-store")
    assert "X-Amz-Expires=60" in answer.headers["Location"]
    there = httpx.get(answer.headers["Location"])  # of the storage, without a key of ours
    assert (there.status_code, there.headers["Content-Type"]) == (200, "image/png")
    through = served.get(f"/v1/jobs/{name}/results/0?through=true", follow_redirects=False)
    assert (through.status_code, through.content) == (200, there.content)
    assert answer.headers["RigFace-Asked"] == through.headers["RigFace-Asked"]
    assert served.get(f"/v1/jobs/{name}/results/1", follow_redirects=False).status_code == 404
    disk = serve_jobs(str(tmp_path / "disk"), result_link_s=60)
    name = submit(disk, png, [{"yaw_deg": 20}]).json()["id"]
    wait(disk, name, "done")
    assert disk.get(f"/v1/jobs/{name}/results/0", follow_redirects=False).status_code == 200


def test_failed_job_gives_its_reason_and_next_runs(serve_jobs, png, flat):
    served = serve_jobs()
    bad = submit(served, flat, [{"yaw_deg": 1}]).json()["id"]
    good = submit(served, png, [{"yaw_deg": 1}]).json()["id"]
    assert wait(served, bad, "failed")["error"]["type"].endswith("no-face")
    wait(served, good, "done")


@pytest.fixture
def kept_files(monkeypatch):
    """Ended jobs keep their input files, so that a test can continue them."""

    def keep(self, job):
        job.has_files = False
        self.save(job)

    monkeypatch.setattr(JobStore, "delete_files", keep)


def test_restart_runs_missing_edits_only(serve_jobs, kept_files, png, tmp_path):
    client = serve_jobs()
    name = submit(client, png, [{"yaw_deg": v} for v in (1, 2, 3)]).json()["id"]
    wait(client, name, "done")
    out, record = tmp_path / "queue" / "jobs" / name / "out", tmp_path / "queue" / "jobs" / name / "job.json"
    first, second = out / "000000.png", out / "000001.png"
    second.unlink()
    written = first.stat().st_mtime_ns
    record.write_text(json.dumps({**settled(record), "state": "running"}))  # as a killed service leaves it
    client = serve_jobs()
    assert client.get("/readyz").json()["jobs"] == "ok"
    assert wait(client, name, "done")["results"] == [0, 1, 2]
    assert second.exists()
    assert first.stat().st_mtime_ns == written


def test_job_that_kills_service_fails_after_three_starts(serve_jobs, png, tmp_path):
    client = serve_jobs()
    name = submit(client, png, [{"yaw_deg": 1}]).json()["id"]
    wait(client, name, "done")
    record = tmp_path / "queue" / "jobs" / name / "job.json"
    record.write_text(json.dumps({**settled(record), "state": "running", "tries": 3, "parts": 1}))
    client = serve_jobs()
    client.get("/readyz")
    assert "3 times" in wait(client, name, "failed")["error"]["detail"]


def test_job_that_got_further_before_each_kill_is_continued(serve_jobs, png, tmp_path, monkeypatch):
    monkeypatch.setattr(JobStore, "delete_files", lambda self, job: None)
    client = serve_jobs()
    name = submit(client, png, [{"yaw_deg": v} for v in range(1, 6)]).json()["id"]
    wait(client, name, "done")
    job = tmp_path / "queue" / "jobs" / name
    stored = {path: path.read_bytes() for path in sorted((job / "out").iterdir())}
    for path in stored:
        path.unlink()
    record = json.loads((job / "job.json").read_text()) | {"state": "running", "ended": 0, "parts": 0, "tries": 1}
    for kills, (path, data) in enumerate(list(stored.items())[:4], start=1):
        path.write_bytes(data)  # a killed service leaves a finished part, and no word of it in the record
        restarted = _read_record(json.dumps(record).encode())
        restarted.results = set(range(kills))
        restarted.count_start()
        record |= {"tries": restarted.tries, "parts": restarted.parts}
    assert (record["tries"], record["parts"]) == (1, 4)
    for tries in (2, 3, 4):
        restarted.count_start()
        assert restarted.tries == tries


def test_ended_job_keeps_no_images_it_was_given(serve_jobs, png, flat, tmp_path):
    served = serve_jobs()
    for picture, state in ((png, "done"), (flat, "failed")):
        name = submit(served, picture, [{"yaw_deg": 1}]).json()["id"]
        wait(served, name, state)
        job = tmp_path / "queue" / "jobs" / name
        settled(job / "job.json", state)
        assert not (job / "in").exists()
        assert (job / "out").exists() == (state == "done")


def test_job_can_be_cancelled(serve_jobs, png):
    served = serve_jobs()
    name = submit(served, png, [{"yaw_deg": v} for v in range(1, 60)]).json()["id"]
    assert served.post(f"/v1/jobs/{name}/cancel").json()["state"] == "cancelled"
    finished = served.get(f"/v1/jobs/{name}").json()["finished"]
    assert finished < 59
    time.sleep(0.2)
    assert served.get(f"/v1/jobs/{name}").json()["finished"] == finished
    assert served.delete(f"/v1/jobs/{name}").status_code == 204


def test_queue_is_bounded_and_idempotent(serve_jobs, services, png, monkeypatch):
    monkeypatch.setattr(JobQueue, "_do", lambda self, job: asyncio.Event().wait())  # works for ever
    served = serve_jobs(max_queued_jobs=3, max_queued_jobs_per_key=2)
    once = {"Idempotency-Key": "order-7"}
    first = submit(served, png, [{"yaw_deg": 1}], once).json()["id"]
    assert submit(served, png, [{"yaw_deg": 1}], once).json()["id"] == first
    assert submit(served, png, [{"yaw_deg": 2}], once).status_code == 409
    assert submit(served, png, [{"yaw_deg": 2}]).status_code == 202
    full = submit(served, png, [{"yaw_deg": 3}])
    assert (full.status_code, full.headers["Retry-After"]) == (429, "30")
    served = serve_jobs(max_queued_jobs=2)
    full = submit(served, png, [{"yaw_deg": 3}])
    assert (full.status_code, full.headers["Retry-After"]) == (503, "30")
    assert submit(served, png, [{"yaw_deg": 1}], once).json()["id"] == first  # what is known is no new job


def test_running_job_resumes_after_graceful_stop(serve_jobs, services, png, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(JobQueue, "_do", lambda self, job: asyncio.Event().wait())
        served = serve_jobs()
        name = submit(served, png, [{"yaw_deg": 1}]).json()["id"]
        wait(served, name, "running")
        served.portal.call(services.jobs.close)
        assert submit(served, png, [{"yaw_deg": 1}]).json()["type"].endswith("draining")
    assert json.loads((tmp_path / "queue" / "jobs" / name / "job.json").read_text())["tries"] == 0
    served = serve_jobs()
    served.get("/readyz")
    wait(served, name, "done")


def test_owner_with_fewest_running_jobs_is_next(tmp_path):
    jobs = JobQueue(str(tmp_path), None, None)
    jobs._store = SimpleNamespace(all=lambda: queue)
    queue = [Job(str(i), owner, None, created=i) for i, owner in enumerate("aaab")]
    jobs._running["0"] = None
    assert jobs._next().id == "3"
    jobs._running["3"] = None
    assert jobs._next().id == "1"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"kind": "opera"}, "kind"),
        ({"edits": []}, "edits"),
        ({"edits": [{"take": ["pose"]}]}, "edit.take"),
        ({"edits": [{"yaw_deg": 500}]}, "yaw_deg"),
        ({"format": "gif"}, "format"),
        ({"kind": "animation", "edits": None}, "edits"),
        ({"edits": [{"faces": [{"edit": {"take": ["light"]}}]}]}, "edit.take: light needs a target picture"),
    ],
)
def test_invalid_job_is_refused_with_field_name(serve_jobs, png, more, says):
    answer = submit(serve_jobs(), png, more.pop("edits", [{"yaw_deg": 1}]), **more)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


@pytest.fixture
def away(monkeypatch):
    """A set of words: a path of the store with one of them cannot be written."""
    words, publish = set(), Store.publish
    monkeypatch.setattr("serve.jobs.queue.RETRY_STORE_S", 0.05)

    def publish_or_not(self, path, *args, **more):
        if any(word in path for word in words):
            raise StorageGone("no room left")
        return publish(self, path, *args, **more)

    monkeypatch.setattr(Store, "publish", publish_or_not)
    return words


@pytest.mark.parametrize("what", ["/out/", "job.json"])
def test_job_waits_while_its_store_is_away(serve_jobs, png, away, tmp_path, what):
    served = serve_jobs()
    assert served.get("/readyz").status_code == 200
    name = submit(served, png, [{"yaw_deg": 1}, {"yaw_deg": 2}]).json()["id"]
    away.add(what)
    second = submit(served, png, [{"yaw_deg": 1}])
    if what == "job.json":
        assert (second.status_code, second.headers["Retry-After"]) == (503, "15")
    time.sleep(0.4)
    assert served.get(f"/v1/jobs/{name}").json()["state"] in ("running", "done")
    assert json.loads((tmp_path / "queue" / "jobs" / name / "job.json").read_text())["state"] != "failed"
    away.clear()
    done = wait(served, name, "done")
    assert done["results"] == [0, 1]
    record = tmp_path / "queue" / "jobs" / name / "job.json"
    assert settled(record)["tries"] <= 1


def test_cancellation_that_cannot_be_saved_is_busy_and_saved_later(serve_jobs, png, away, monkeypatch, tmp_path):
    monkeypatch.setattr(JobQueue, "_do", lambda self, job: asyncio.Event().wait())
    served = serve_jobs()
    name = submit(served, png, [{"yaw_deg": 1}]).json()["id"]
    wait(served, name, "running")
    away.add("job.json")
    answer = served.post(f"/v1/jobs/{name}/cancel")
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (503, "busy")
    away.clear()
    record, end = tmp_path / "queue" / "jobs" / name / "job.json", time.monotonic() + 10
    while json.loads(record.read_text())["state"] != "cancelled":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert served.post(f"/v1/jobs/{name}/cancel").json()["state"] == "cancelled"


def test_background_loops_survive_errors(serve_jobs, png, monkeypatch):
    rounds = []

    def swept(self):
        rounds.append(1)
        raise StorageGone("away")

    monkeypatch.setattr("serve.jobs.queue.SWEEP_S", 0.01)
    monkeypatch.setattr(JobStore, "sweep", swept)
    served = serve_jobs()
    wait(served, submit(served, png, [{"yaw_deg": 1}]).json()["id"], "done")
    end = time.monotonic() + 10
    while len(rounds) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
