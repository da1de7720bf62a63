"""nearby.py: ranges while they are cheap, one copy when they are not, and never more disk than allowed."""

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
    monkeypatch.setattr(object_cache, "SPARE", 1_000_000)  # the first 256 kB come with opening
    monkeypatch.setattr(object_cache, "PIECE", 2**20)
    return object_cache.folder()


@pytest.fixture
def film(bucket, request):
    data = random.Random(request.node.name).randbytes(SIZE)
    objects.put("faces", f"films/{request.node.name}", data)
    return f"films/{request.node.name}", data


def read_all(key: str, step: int = 500_000) -> tuple[bytes, "object_cache.Nearby"]:
    file = object_cache.CachedObject("faces", key)
    data = b"".join(file.read_at(step, at) for at in range(0, file.size(), step))
    file.close()
    return data, file


@pytest.fixture
def counted(monkeypatch):
    """What is told while a test runs: (name, label) -> sum."""
    sums = Counter()

    def tell(measure, value=1.0, **labels):
        sums[measure.name.removeprefix("rigface_video_cache_"), *labels.values()] += value

    monkeypatch.setattr(metrics, "tell", tell)
    return sums


def copies(cache):
    return sorted(p.name for p in cache.glob("*.copy")) if cache.exists() else []


def test_read_twice_it_is_not_copied_read_more_often_it_is(film, cache, counted):
    key, data = film
    for _ in range(2):
        assert read_all(key)[0] == data
    assert copies(cache) == []
    assert read_all(key)[0] == data
    assert len(copies(cache)) == 1
    _, again = read_all(key)
    assert again._remote.fetched <= 256 * 1024  # what opening it costs
    assert not list(cache.glob("*.fetched")) + list(cache.glob("*.part"))
    assert (counted["lookups", "miss"], counted["lookups", "hit"]) == (3, 1)
    assert counted["bytes", "kept"] == SIZE
    assert 3 * SIZE < counted["bytes", "fetched"] < 4.5 * SIZE  # two by range, some of the third, and the copy
    assert SIZE < counted["bytes", "read"] <= 2 * SIZE


def test_a_file_that_is_read_back_and_forth_is_copied_in_the_middle(film, cache):
    key, data = film
    with open_uri(f"s3://faces/{key}") as file:
        for at in [i * 397_123 % (SIZE - 1000) for i in range(60)]:
            file.seek(at)
            assert file.read(100) == data[at : at + 100]
    assert len(copies(cache)) == 1


def test_another_content_is_another_object(film, cache):
    key, data = film
    for _ in range(3):
        read_all(key)
    objects.put("faces", key, data[::-1])
    assert read_all(key)[0] == data[::-1]


def test_a_copy_that_somebody_cut_short_is_not_believed(film, cache):
    key, data = film
    for _ in range(3):
        read_all(key)
    (cache / copies(cache)[0]).write_bytes(b"torn")
    assert read_all(key)[0] == data


def test_the_longest_unread_go_first_and_what_is_larger_than_all_room_stays_away(bucket, cache, monkeypatch, counted):
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.007")  # two films, not three
    for name in "abc":
        objects.put("faces", f"films/lru {name}", random.Random(name).randbytes(SIZE))
    kept = {}
    for name in ("a", "b", "a", "c"):  # a is read again before c comes
        for _ in range(3):
            read_all(f"films/lru {name}")
        kept[name] = object_cache.CachedObject("faces", f"films/lru {name}")._copy.name
        os.utime(cache / kept[name], (len(kept) + 100 * (name == "a"),) * 2)
    assert copies(cache) == sorted([kept["a"], kept["c"]])
    assert counted["evictions",] == counted["bytes", "evicted"] / SIZE == 1
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.001")
    for _ in range(4):
        read_all("films/lru b")
    assert kept["b"] not in copies(cache)


def test_copies_are_for_their_user_alone(film, cache):
    key, _ = film
    for _ in range(3):
        read_all(key)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert len(copies(cache)) == 1


@pytest.mark.parametrize("planted", ["open to all", "a link", "another's"])
def test_a_folder_that_somebody_else_may_have_made_is_not_used(film, cache, planted, monkeypatch, tmp_path, caplog):
    key, data = film
    if planted == "another's":
        monkeypatch.setattr(object_cache.os, "getuid", lambda: 12345)
    folder = object_cache.folder()
    folder.parent.mkdir()
    target = tmp_path / "theirs" if planted == "a link" else folder
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


def test_what_others_are_fetching_counts_and_what_they_left_does_not(film, cache, monkeypatch):
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.007")  # two films, not three
    key, data = film
    cache.mkdir(parents=True, mode=0o700)
    for name in ("busy.part", "left.part"):
        (cache / name).write_bytes(bytes(SIZE))
    (cache / "old.copy").write_bytes(bytes(SIZE))
    with open(cache / "busy.part", "r+b") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)  # as the process that writes it has
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


def test_a_disk_that_takes_nothing_is_no_trouble(film, cache, monkeypatch):
    key, data = film

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(object_cache.os, "pwrite", full)
    for _ in range(4):
        assert read_all(key)[0] == data
    assert copies(cache) == []
    assert not list(cache.glob("*.part"))


def _read_thrice(told, key, queue):
    os.environ.update(told)
    object_cache.SPARE = 1_000_000
    queue.put([hash(read_all(key)[0]) == hash(read_all(key)[0]) for _ in range(3)])


def test_processes_do_not_get_in_each_others_way(film, cache):
    key, data = film
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    told = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "RIGFACE_"))}
    processes = [context.Process(target=_read_thrice, args=(told, key, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [[True] * 3] * 3
    for process in processes:
        process.join()
    assert len(copies(cache)) == 1
    assert read_all(key)[0] == data


def test_an_object_that_is_not_given_out_is_told_from_a_storage_that_is_away(film, s3_server, monkeypatch):
    key, _ = film
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
