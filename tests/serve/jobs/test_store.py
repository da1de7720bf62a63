"""Store of jobs: records that survive kills, locks, removals and damage."""

import asyncio
import json
import time

import pytest

from rigface.edits import EditSpec
from rigface.errors import OutputBusy, StorageGone
from rigface.storage.store import Store
from serve.jobs.queue import JobQueue
from serve.jobs.store import _RECORD, Delivery, Job, JobStore, ResultInfo, _fingerprint, _read_record
from serve.messages import JobSubmission
from serve.schemas import BatchJob
from tests.serve.jobs.conftest import settled, submit, wait


def test_refused_submission_that_was_stored_never_runs(tmp_path, monkeypatch):
    publish, lost = Store.publish, [True]

    def publish_and_lose_the_answer(self, path, *args, **more):
        publish(self, path, *args, **more)
        if path.endswith("job.json") and lost:
            raise StorageGone("the answer was lost")

    monkeypatch.setattr(Store, "publish", publish_and_lose_the_answer)
    submission = JobSubmission(BatchJob(kind="batch", edits=[EditSpec()]), {"sha256:aa": b"png"}, "sha256:aa")
    store = JobStore(str(tmp_path), 60)
    with pytest.raises(StorageGone):
        store.add(submission, "anna", 1, "", lambda: None)
    lost.clear()
    second = store.add(submission, "anna", 1, "", lambda: None)
    store.close()
    again = JobStore(str(tmp_path), 60)
    assert [job.id for job in again.all()] == [second.id]
    again.close()


def test_store_reads_records_concurrently(tmp_path, monkeypatch):
    store = JobStore(str(tmp_path), 60)
    submission = JobSubmission(BatchJob(kind="batch", edits=[EditSpec()]), {"sha256:aa": b"png"}, "sha256:aa")
    for _ in range(20):
        store.add(submission, "anna", 1, "", lambda: None)
    store.close()
    read, at_once, most = Store.read, [], []

    def slow_read(self, path):
        at_once.append(path)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.remove(path)
        return read(self, path)

    monkeypatch.setattr(Store, "read", slow_read)
    again = JobStore(str(tmp_path), 60)
    assert len(again.all()) == 20
    assert max(most) > 5
    again.close()


def test_record_of_first_layout_is_read():
    job = Job("a" * 32, "me", BatchJob(kind="batch", edits=[EditSpec(yaw_deg=3)], webhook="https://me.example.com/"))
    record = json.loads(_RECORD.dump_json(job, exclude={"results", "pieces", "parts", "has_files"}))
    del record["delivery"], record["fingerprint"]
    record |= {"kind": "batch", "hook": {"state": "waiting", "tries": 2, "next": 5.0}, "what": "hash", "key": "k"}
    for name in ("picture", "target", "targets"):
        del record["asked"][name]
    read = _read_record(json.dumps(record).encode())
    assert (read.asked, read.delivery) == (job.asked, Delivery("waiting", 2, 5.0))
    assert read.fingerprint == _fingerprint(job)


def test_nothing_is_written_for_removed_job(tmp_path):
    job_store = JobStore(str(tmp_path), 60)
    job = Job("a" * 32, "me", BatchJob(kind="batch", edits=[EditSpec()]))
    job_store._jobs[job.id] = job
    job_store.save(job)
    assert (tmp_path / "jobs" / job.id / "job.json").exists()
    job_store.remove(job)
    job_store.save(job)
    job_store.put(job, 0, b"late", ResultInfo())
    assert not (tmp_path / "jobs" / job.id).exists()
    job_store.close()
    assert JobStore(str(tmp_path), 60).all() == []


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_second_process_takes_over_jobs_of_first(serve_jobs, services, png, place, request, tmp_path):
    uri = str(tmp_path / "queue") if place == "disk" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    first = serve_jobs(uri)
    old = services.jobs
    before = submit(first, png, [{"yaw_deg": 1}]).json()["id"]
    second = serve_jobs(uri, beside=True)
    assert second.get("/readyz").json()["jobs"] == "ok"  # a rollout must not wait for it
    refused = submit(second, png, [{"yaw_deg": 1}])
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert second.get(f"/v1/jobs/{before}").json()["type"].endswith("busy")
    meanwhile = submit(first, png, [{"yaw_deg": 2}]).json()["id"]
    first.portal.call(old.close)
    assert submit(first, png, [{"yaw_deg": 1}]).json()["type"].endswith("draining")
    assert wait(second, meanwhile, "done")["results"] == [0]
    wait(second, before, "done")


def test_process_without_lock_writes_nothing_and_locks_again(serve_jobs, services, png, monkeypatch, tmp_path):
    monkeypatch.setattr("serve.jobs.queue.LOCK_CHECK_S", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(JobQueue, "_do", lambda self, job: asyncio.Event().wait())
        served = serve_jobs()
        name = submit(served, png, [{"yaw_deg": 1}]).json()["id"]
        job_store, record = services.jobs._store, tmp_path / "queue" / "jobs" / name / "job.json"
        settled(record, "running")
        written = record.stat().st_mtime_ns

        def lost():
            raise OutputBusy("another run has taken over")

        job_store._check_lock = lost
        end = time.monotonic() + 10
        while services.jobs._store is job_store:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert record.stat().st_mtime_ns == written
    wait(served, name, "done")


def test_unreadable_job_record_is_skipped(serve_jobs, png, tmp_path):
    for name, text in (("a" * 32, "{"), ("b" * 32, json.dumps({"of": "the future"}))):
        (tmp_path / "queue" / "jobs" / name).mkdir(parents=True)
        (tmp_path / "queue" / "jobs" / name / "job.json").write_text(text)
    served = serve_jobs()
    wait(served, submit(served, png, [{"yaw_deg": 1}]).json()["id"], "done")
    assert len(served.get("/v1/jobs").json()["jobs"]) == 1
