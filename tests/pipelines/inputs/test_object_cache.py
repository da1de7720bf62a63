"""Local cache of S3 objects: ranges while they are cheap, then one copy, within the allowed disk space."""

import fcntl
import logging
import multiprocessing
import os
import random
from collections import Counter

import pytest

from pipelines.inputs import object_cache
from pipelines.inputs.sources import open_uri
from pipelines.telemetry import metrics
from rigface.errors import StorageGone
from rigface.storage import objects, s3_client
from rigface.storage.model_cache import _warn
from tests.s3_proxy import Proxy

SIZE = 3_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RIGFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(object_cache, "READ_AHEAD_BYTES", 1_000_000)  # the first 256 kB come with opening
    monkeypatch.setattr(object_cache, "PIECE_BYTES", 2**20)
    return object_cache.folder()


@pytest.fixture
def video(bucket, request):
    data = random.Random(request.node.name).randbytes(SIZE)
    objects.put("faces", f"videos/{request.node.name}", data)
    return f"videos/{request.node.name}", data


def read_all(key: str, step: int = 500_000) -> tuple[bytes, "object_cache.CachedObject"]:
    file = object_cache.CachedObject("faces", key)
    data = b"".join(file.read_at(step, at) for at in range(0, file.size(), step))
    file.close()
    return data, file


@pytest.fixture
def counted(monkeypatch):
    """Recorded metrics of a test: (name, label) -> sum."""
    sums = Counter()

    def record(metric, value=1.0, **labels):
        sums[metric.name.removeprefix("rigface_video_cache_"), *labels.values()] += value

    monkeypatch.setattr(metrics, "record", record)
    return sums


def copies(cache):
    return sorted(p.name for p in cache.glob("*.copy")) if cache.exists() else []


def test_object_is_copied_at_its_third_read(video, cache, counted):
    key, data = video
    for _ in range(2):
        assert read_all(key)[0] == data
    assert copies(cache) == []
    assert read_all(key)[0] == data
    assert len(copies(cache)) == 1
    _, again = read_all(key)
    assert again._remote.fetched <= 256 * 1024  # the cost of opening it
    assert not list(cache.glob("*.fetched")) + list(cache.glob("*.part"))
    assert (counted["lookups", "miss"], counted["lookups", "hit"]) == (3, 1)
    assert counted["bytes", "kept"] == SIZE
    assert 3 * SIZE < counted["bytes", "fetched"] < 4.5 * SIZE  # two by range, some of the third, and the copy
    assert SIZE < counted["bytes", "read"] <= 2 * SIZE


def test_object_read_back_and_forth_is_copied_meanwhile(video, cache):
    key, data = video
    with open_uri(f"s3://faces/{key}") as file:
        for at in [i * 397_123 % (SIZE - 1000) for i in range(60)]:
            file.seek(at)
            assert file.read(100) == data[at : at + 100]
    assert len(copies(cache)) == 1


def test_replaced_object_is_not_read_from_the_old_copy(video, cache):
    key, data = video
    for _ in range(3):
        read_all(key)
    objects.put("faces", key, data[::-1])
    assert read_all(key)[0] == data[::-1]


def test_truncated_copy_is_not_used(video, cache):
    key, data = video
    for _ in range(3):
        read_all(key)
    (cache / copies(cache)[0]).write_bytes(b"torn")
    assert read_all(key)[0] == data


def test_least_recently_read_copy_is_evicted_and_too_large_objects_are_not_copied(bucket, cache, monkeypatch, counted):
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.007")  # two videos, not three
    for name in "abc":
        objects.put("faces", f"videos/lru {name}", random.Random(name).randbytes(SIZE))
    kept = {}
    for name in ("a", "b", "a", "c"):  # a is read again before c comes
        for _ in range(3):
            read_all(f"videos/lru {name}")
        kept[name] = object_cache.CachedObject("faces", f"videos/lru {name}")._copy.name
        os.utime(cache / kept[name], (len(kept) + 100 * (name == "a"),) * 2)
    assert copies(cache) == sorted([kept["a"], kept["c"]])
    assert counted["evictions",] == counted["bytes", "evicted"] / SIZE == 1
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.001")
    for _ in range(4):
        read_all("videos/lru b")
    assert kept["b"] not in copies(cache)


def test_cache_folder_is_private(video, cache):
    key, _ = video
    for _ in range(3):
        read_all(key)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert len(copies(cache)) == 1


@pytest.mark.parametrize("planted", ["open to all", "a link", "another user's"])
def test_untrusted_cache_folder_is_not_used(video, cache, planted, monkeypatch, tmp_path, caplog):
    key, data = video
    if planted == "another user's":
        monkeypatch.setattr(object_cache.os, "getuid", lambda: 12345)
    folder = object_cache.folder()
    folder.parent.mkdir()
    target = tmp_path / "target" if planted == "a link" else folder
    target.mkdir(mode=0o700)
    if planted == "a link":
        folder.symlink_to(target)
    elif planted == "open to all":
        folder.chmod(0o777)
    _warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert read_all(key)[0] == data
    assert list(target.iterdir()) == []
    assert [r.message for r in caplog.records if str(folder) in r.message and "mode 700" in r.message] != []


def test_unfinished_copies_count_only_while_their_process_lives(video, cache, monkeypatch):
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.007")  # two videos, not three
    key, data = video
    cache.mkdir(parents=True, mode=0o700)
    for name in ("busy.part", "abandoned.part"):
        (cache / name).write_bytes(bytes(SIZE))
    (cache / "old.copy").write_bytes(bytes(SIZE))
    with open(cache / "busy.part", "r+b") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)  # as the process that writes it does
        for _ in range(3):
            assert read_all(key)[0] == data
        assert len(copies(cache)) == 1
        assert "old.copy" not in copies(cache)
        assert [p.name for p in cache.glob("*.part")] == ["busy.part"]
        (cache / copies(cache)[0]).unlink()
        busy.truncate(2 * SIZE)
        for _ in range(4):
            assert read_all(key)[0] == data
        assert copies(cache) == []  # there is no room beside it
    for _ in range(3):
        read_all(key)
    assert len(copies(cache)) == 1


def test_full_disk_falls_back_to_ranges(video, cache, monkeypatch):
    key, data = video

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(object_cache.os, "pwrite", full)
    for _ in range(4):
        assert read_all(key)[0] == data
    assert copies(cache) == []
    assert not list(cache.glob("*.part"))


def _read_thrice(environment, key, queue):
    os.environ.update(environment)
    object_cache.READ_AHEAD_BYTES = 1_000_000
    queue.put([hash(read_all(key)[0]) == hash(read_all(key)[0]) for _ in range(3)])


def test_processes_share_one_copy(video, cache):
    key, data = video
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    environment = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "RIGFACE_"))}
    processes = [context.Process(target=_read_thrice, args=(environment, key, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [[True] * 3] * 2
    for process in processes:
        process.join()
    assert len(copies(cache)) == 1
    assert read_all(key)[0] == data


def test_refused_object_raises_oserror_and_absent_storage_raises_storagegone(video, s3_server, monkeypatch):
    key, _ = video
    monkeypatch.setenv("RIGFACE_S3_PATIENCE_S", "0.3")
    with Proxy(s3_server, share=1.0, faults=("500",)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StorageGone):
            object_cache.CachedObject("faces", key)
        real = proxy.draw
        monkeypatch.setattr(proxy, "draw", lambda: real() if proxy.requests < 3 else "")
        monkeypatch.setattr(s3_client, "budget", s3_client.Budget(1000, 1000))
        monkeypatch.setattr(objects, "answers", lambda bucket: True)
        proxy.requests = 0
        monkeypatch.setenv("RIGFACE_S3_PATIENCE_S", "0")
        with pytest.raises(OSError, match="did not answer properly"):
            object_cache.CachedObject("faces", key)
