"""Store: atomic publication, listings, and the lock of one writer."""

import json
import multiprocessing
import os
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rigface.errors import OutputBusy
from rigface.storage import lock, s3_client
from rigface.storage.store import Store, sharded
from tests.conftest import S3_ENVIRONMENT, make_bucket
from tests.s3_proxy import Proxy


@pytest.fixture(params=["disk", "s3", "another s3"])
def store(request, tmp_path, monkeypatch):
    if request.param == "disk":
        return Store(str(tmp_path / "out"))
    if request.param == "another s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("other_s3_server"))
        make_bucket("faces")
        return Store(f"s3://faces/{tmp_path.name}")
    return Store(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_published_objects_are_listed_read_and_deleted(store):
    store.publish("faces/ab/abc.parquet", b"one")
    store.publish("faces/cd/cde.parquet", b"two")
    store.publish("faces/note.txt", b"not ours")
    assert store.read("faces/ab/abc.parquet") == b"one"
    assert store.ids("faces", ".parquet") == {"abc", "cde"}
    assert store.exists("faces/ab/abc.parquet")
    store.delete("faces/ab/abc.parquet")
    store.delete("faces/ab/abc.parquet")
    assert store.ids("faces", ".parquet") == {"cde"}
    store.delete_folder("faces")
    store.delete_folder("faces")
    assert store.ids("faces", ".parquet") == set()


def test_first_commit_wins_and_replace_replaces(store):
    assert store.publish("a/x", b"first", replace=False)
    assert not store.publish("a/x", b"late twin", replace=False)
    assert store.read("a/x") == b"first"
    assert store.publish("a/x", b"rewritten")
    assert store.read("a/x") == b"rewritten"


def test_table_fetches_only_named_columns(store):
    sink = pa.BufferOutputStream()
    table = pa.table({"a": range(1000), "large": [os.urandom(2000) for _ in range(1000)]})
    pq.write_table(table, sink)
    store.publish("t.parquet", sink.getvalue())
    assert store.table("t.parquet").equals(table)
    before = s3_client.counts["requests"]
    assert store.table("t.parquet", ["a"]).equals(table.select(["a"]))
    assert s3_client.counts["requests"] - before <= 3
    with store.open("t.parquet") as f:
        assert pq.read_schema(f).names == ["a", "large"]


def test_missing_object_is_file_not_found(store):
    with pytest.raises(FileNotFoundError):
        store.read("no/such")


def test_second_writer_is_refused_with_the_name_of_the_first(store):
    with lock.hold(store) as check:
        check()
        assert str(os.getpid()) in lock.held(store)
        with pytest.raises(OutputBusy, match=f"process {os.getpid()} on"), lock.hold(store):
            pass
    assert lock.held(store) == ""
    with lock.hold(store):
        pass


def test_publish_leaves_no_temporary_file(tmp_path):
    store = Store(str(tmp_path))
    store.publish("faces/ab/x", b"1", replace=False)
    store.publish("faces/ab/x", b"1", replace=False)
    store.publish("faces/ab/x", b"1")
    assert os.listdir(store.at(".rigface/tmp")) == []


def test_sweep_removes_only_old_files(tmp_path):
    store = Store(str(tmp_path))
    os.makedirs(store.at(".rigface/tmp"))
    for name, age in (("old", 7200), ("new", 1)):
        path = store.at(f".rigface/tmp/{name}")
        with open(path, "w"):
            pass
        os.utime(path, (time.time() - age,) * 2)
    store.sweep()
    assert os.listdir(store.at(".rigface/tmp")) == ["new"]


def test_temporary_files_are_not_listed(tmp_path):
    store = Store(str(tmp_path))
    store.publish("faces/ab/x.parquet", b"1")
    assert set(store.paths("faces")) == {"faces/ab/x.parquet"}


def _hold_forever(uri, ready):
    with lock.hold(Store(uri)):
        ready.set()
        time.sleep(60)


def test_lock_of_killed_process_is_released(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_forever, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(OutputBusy, match=f"process {process.pid}"), lock.hold(Store(str(tmp_path))):
        pass
    process.kill()
    process.join()
    with lock.hold(Store(str(tmp_path))):
        pass


def test_lease_is_measured_by_a_clock_that_goes_on_while_the_machine_sleeps(monkeypatch):
    asked = []
    monkeypatch.setattr(time, "clock_gettime", lambda clock: asked.append(clock) or 0.0)
    lock.now_s()
    assert asked == [time.CLOCK_BOOTTIME]


def test_expired_lease_is_taken_over_and_check_raises(bucket, monkeypatch):
    store = Store(f"{bucket}/lease")
    monkeypatch.setattr(lock, "EXPIRE_S", 1.0)  # the storage's clock shows whole seconds
    monkeypatch.setattr(lock, "RENEW_S", 60)
    with lock.hold(store) as check:
        time.sleep(2.1)
        with lock.hold(store), pytest.raises(OutputBusy, match="Run it again"):
            check()
        assert lock.held(store) == ""
    assert lock.held(store) == ""


def test_lease_is_renewed_while_held(bucket, monkeypatch):
    store = Store(f"{bucket}/renewed")
    monkeypatch.setattr(lock, "EXPIRE_S", 1.0)
    monkeypatch.setattr(lock, "RENEW_S", 0.2)
    with lock.hold(store) as check:
        time.sleep(2.1)
        check()
        with pytest.raises(OutputBusy), lock.hold(store):
            pass


def test_expired_lease_is_renewed_if_no_other_run_took_it(bucket, monkeypatch):
    monkeypatch.setattr(lock, "EXPIRE_S", 0.3)
    monkeypatch.setattr(lock, "RENEW_S", 60)
    with lock.hold(Store(f"{bucket}/away")) as check:
        time.sleep(0.4)
        check()


def test_worker_waits_out_an_outage_longer_than_a_lease(s3_behind, bucket, monkeypatch):
    store = Store(f"{bucket}/worker")
    with lock.hold(store):
        worker = lock.follow(Store(store.uri))
        monkeypatch.setattr(lock, "EXPIRE_S", 0.1)
        monkeypatch.setattr(s3_behind, "down", True)
        threading.Timer(0.4, setattr, (s3_behind, "down", False)).start()
        worker.publish("after", b"")
    assert store.exists("after")


@pytest.mark.parametrize("days", [-2, 2])
def test_lease_expires_by_the_clock_of_the_storage(other_s3_server, monkeypatch, days):
    """A machine whose clock is wrong by days neither takes a valid lease nor waits for an expired one."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", other_s3_server)  # a process of its own, with a clock of its own
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    make_bucket("faces")
    store = Store(f"s3://faces/clock{days}")
    real = time.time
    monkeypatch.setattr(lock, "RENEW_S", 60)
    with lock.hold(store):
        monkeypatch.setattr(time, "time", lambda: real() + days * 86400)
        with pytest.raises(OutputBusy), lock.hold(store):
            pass
        monkeypatch.setattr(lock, "EXPIRE_S", 1.0)
        time.sleep(2.1)
        with lock.hold(store):
            pass


def test_lease_is_held_after_lost_answer(s3_server, bucket, monkeypatch):
    """The put got through, its answer did not: the next try finds the condition broken by the first."""
    monkeypatch.setattr(lock, "RENEW_S", 0.1)
    with Proxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        taken, requests = iter(["lost"]), []

        def draw() -> str:
            requests.append(1)
            return next(taken, "lost" if len(requests) == 4 else "")  # taking it; later, a renewal

        monkeypatch.setattr(proxy, "draw", draw)
        with lock.hold(Store(f"{bucket}/lost")) as check:
            time.sleep(1.0)
            assert len(requests) > 5
            check()
            with pytest.raises(OutputBusy), lock.hold(Store(f"{bucket}/lost")):
                pass


def test_lease_of_process_in_another_container_is_kept(bucket, monkeypatch):
    """Same host name, other process numbers: a missing process here proves nothing."""
    store = Store(f"{bucket}/container")
    real = lock._new_owner()
    monkeypatch.setattr(lock, "_new_owner", lambda: {**real, "machine": "another", "pid": 2**22 + 1})
    with lock.hold(store):
        monkeypatch.setattr(lock, "_new_owner", lambda: {**real, "id": "other"})
        with pytest.raises(OutputBusy), lock.hold(store):
            pass


def test_lease_of_dead_process_of_this_machine_is_free_at_once(bucket):
    store = Store(f"{bucket}/dead")
    dead = {**lock._new_owner(), "pid": 2**22 + 1}
    store.publish(".rigface/lease.json", json.dumps(dead).encode())
    assert lock.held(store) == ""
    with lock.hold(store):
        pass


def test_publication_after_a_sleep_is_refused_if_another_run_took_over(bucket, monkeypatch):
    """A suspended machine: no thread has renewed the lease, and CLOCK_MONOTONIC has not moved."""
    monkeypatch.setattr(lock, "RENEW_S", 60)
    store, awake = Store(f"{bucket}/slept"), lock.now_s
    with lock.hold(store):
        worker = lock.follow(Store(store.uri))
        worker.publish("before", b"")
        Store(store.uri).publish(".rigface/lease.json", json.dumps({"id": "another"}).encode())
        monkeypatch.setattr(lock, "now_s", lambda: awake() + lock.EXPIRE_S)
        for publisher in (store, worker):
            with pytest.raises(OutputBusy, match="another has taken over"):
                publisher.publish("after", b"")
    assert store.exists("before")
    assert not store.exists("after")


def test_publication_is_refused_if_the_lock_file_names_another_run(tmp_path):
    """As on a network file system whose server gave the lock away."""
    store = Store(str(tmp_path))
    with lock.hold(store):
        worker = lock.follow(Store(store.uri))
        worker.publish("before", b"")
        (tmp_path / ".rigface" / "lock").write_text(json.dumps({"id": "another"}))
        for publisher in (store, worker):
            with pytest.raises(OutputBusy, match="another has taken over"):
                publisher.publish("after", b"")
    assert lock.holder(store) == "another"
    assert not store.exists("after")


def test_clock_of_the_lease_goes_on_while_the_machine_sleeps():
    assert lock.now_s() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)


def test_sharded_spreads_objects_over_folders():
    assert sharded("faces", "ab12", ".parquet") == "faces/ab/ab12.parquet"


def test_store_can_be_pickled(tmp_path):
    import pickle

    store = Store(str(tmp_path))
    assert pickle.loads(pickle.dumps(store)).root == store.root
