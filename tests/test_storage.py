"""Whole objects or none, and one writer."""

import multiprocessing
import os
import time

import pytest

from pipelines import lock
from rigface.errors import OutputBusy
from rigface.storage import Store, sharded


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path):
    if request.param == "disk":
        return Store(str(tmp_path / "out"))
    return Store(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_published_objects_are_found_read_and_removed(store):
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


def test_nothing_is_left_aside_after_publishing(tmp_path):
    store = Store(str(tmp_path))
    store.publish("faces/ab/x", b"1", replace=False)
    store.publish("faces/ab/x", b"1", replace=False)
    store.publish("faces/ab/x", b"1")
    assert os.listdir(store.at(".rigface/tmp")) == []


def test_sweep_takes_only_what_is_old(tmp_path):
    store = Store(str(tmp_path))
    os.makedirs(store.at(".rigface/tmp"))
    for name, age in (("old", 7200), ("new", 1)):
        path = store.at(f".rigface/tmp/{name}")
        with open(path, "w"):
            pass
        os.utime(path, (time.time() - age,) * 2)
    store.sweep()
    assert os.listdir(store.at(".rigface/tmp")) == ["new"]


def test_work_left_aside_is_invisible_to_readers(tmp_path):
    store = Store(str(tmp_path))
    store.publish("faces/ab/x.parquet", b"1")
    assert set(store.paths("faces")) == {"faces/ab/x.parquet"}


def _hold_forever(uri, ready):
    with lock.hold(Store(uri)):
        ready.set()
        time.sleep(60)


def test_lock_of_a_killed_process_is_gone(tmp_path):
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


def test_expired_lease_is_taken_over_and_the_loser_notices(bucket, monkeypatch):
    store = Store(f"{bucket}/lease")
    monkeypatch.setattr(lock, "EXPIRE_S", 0.3)
    monkeypatch.setattr(lock, "RENEW_S", 60)
    with lock.hold(store) as check:
        time.sleep(0.4)
        with lock.hold(store), pytest.raises(OutputBusy, match="Run it again"):
            check()


def test_lease_is_renewed_while_held(bucket, monkeypatch):
    store = Store(f"{bucket}/renewed")
    monkeypatch.setattr(lock, "EXPIRE_S", 0.5)
    monkeypatch.setattr(lock, "RENEW_S", 0.1)
    with lock.hold(store) as check:
        time.sleep(0.8)
        check()
        with pytest.raises(OutputBusy), lock.hold(store):
            pass


def test_objects_spread_over_folders():
    assert sharded("faces", "ab12", ".parquet") == "faces/ab/ab12.parquet"


def test_a_store_is_the_same_in_another_process(tmp_path):
    import pickle

    store = Store(str(tmp_path))
    assert pickle.loads(pickle.dumps(store)).root == store.root
