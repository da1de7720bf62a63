"""s3_client.py and objects.py against real HTTP servers, and a proxy that injects faults."""

import random
import urllib.request
from types import SimpleNamespace

import pytest

from rigface.errors import PlanError, StorageGone
from rigface.storage import objects, s3_client
from tests.conftest import S3_ENVIRONMENT, make_bucket
from tests.s3_proxy import FAULTS, Proxy


@pytest.fixture(params=["moto", "localbucket"])
def either_bucket(request, s3_server, monkeypatch):
    """A bucket on each of two independent servers."""
    if request.param == "localbucket":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("other_s3_server"))
    make_bucket("things")
    return "things"


@pytest.fixture
def through(s3_server, bucket, monkeypatch):
    """Start a proxy for the client, whose patience is seconds instead of minutes."""
    entered = []

    def make(share=0.0, faults=FAULTS, seed=0, patience=30.0, **more):
        proxy = Proxy(s3_server, share, faults, seed, **more).__enter__()
        entered.append(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("RIGFACE_S3_PATIENCE_S", str(patience))
        monkeypatch.setenv("RIGFACE_S3_SILENT_S", "0.3")
        monkeypatch.setattr(s3_client, "LONGEST_PAUSE_S", 0.2)
        monkeypatch.setattr(s3_client, "budget", s3_client.Budget(1000, 1000))
        return proxy

    yield make
    for proxy in entered:
        proxy.__exit__()


# ---- whichever server it is


def test_object_is_put_read_listed_and_deleted(either_bucket):
    tag = objects.put(either_bucket, "a/b c+d%/ü.bin", b"0123456789")
    assert objects.get(either_bucket, "a/b c+d%/ü.bin") == (
        b"0123456789",
        objects.About(10, tag, pytest.approx(0, abs=3)),
    )
    assert objects.get(either_bucket, "a/b c+d%/ü.bin", 2, 3)[0] == b"234"
    assert objects.get(either_bucket, "a/b c+d%/ü.bin", -4)[0] == b"6789"
    assert objects.head(either_bucket, "a/b c+d%/ü.bin").size == 10
    assert (
        list(objects.keys(either_bucket, "a/"))
        == list(objects.keys_unordered(either_bucket, "a/"))
        == ["a/b c+d%/ü.bin"]
    )
    objects.delete(either_bucket, ["a/b c+d%/ü.bin", "a/none"])
    assert list(objects.keys(either_bucket, "a/")) == []
    with pytest.raises(FileNotFoundError, match="s3://things/a/none"):
        objects.get(either_bucket, "a/none")


def test_conditional_put_does_not_replace(either_bucket):
    objects.put(either_bucket, "once", b"first", if_none=True)
    with pytest.raises(FileExistsError):
        objects.put(either_bucket, "once", b"second", if_none=True)
    assert objects.get(either_bucket, "once")[0] == b"first"


def test_large_object_is_uploaded_in_parts(either_bucket, monkeypatch):
    monkeypatch.setattr(objects, "PART", 5 * 2**20)  # S3's least
    data = random.Random(0).randbytes(13 * 2**20)
    objects.put(either_bucket, "large", data)
    assert objects.get(either_bucket, "large")[0] == data
    with pytest.raises(FileExistsError):
        objects.put(either_bucket, "large", data[:-1], if_none=True)
    remote = objects.Remote(either_bucket, "large")
    assert remote.read_at(100, 6 * 2**20) == data[6 * 2**20 : 6 * 2**20 + 100]
    assert remote.read_at(100, len(data) - 5) == data[-5:]


def test_remote_gets_size_with_first_or_last_bytes(either_bucket):
    for size in (0, 1, 100, 1000):
        data = bytes(i % 256 for i in range(size))
        objects.put(either_bucket, f"sized/{size}", data)
        for at_once in (100, -100):
            remote = objects.Remote(either_bucket, f"sized/{size}", at_once)
            assert remote.size() == size
            assert remote.read_at(10**6, 0) == data
            assert remote.read_at(10, size - 3 if size > 3 else 0) == data[-3 if size > 3 else 0 :][:10]


def test_listing_follows_pages(either_bucket, monkeypatch):
    monkeypatch.setattr(objects, "PAGE", 4)
    names = {f"many/{i % 5}/{i:03}" for i in range(15)} | {"many/top"}
    for name in names:
        objects.put(either_bucket, name, b"")
    assert list(objects.keys(either_bucket, "many/")) == sorted(names)
    assert sorted(objects.keys_unordered(either_bucket, "many/")) == sorted(names)
    some = objects.keys_unordered(either_bucket, "many/")
    next(some)
    some.close()  # leaving early leaves no thread behind


def test_presigned_address_needs_no_credentials(either_bucket):
    objects.put(either_bucket, "for you", b"hello")
    with urllib.request.urlopen(objects.presigned(f"s3://{either_bucket}/for you", seconds=60), timeout=10) as answer:
        assert answer.read() == b"hello"
    address, kind = (
        objects.presigned(f"s3://{either_bucket}/from you", "PUT"),
        {"Content-Type": "application/octet-stream"},
    )
    put = urllib.request.Request(address, b"thanks", kind, method="PUT")
    urllib.request.urlopen(put, timeout=10).close()
    assert objects.get(either_bucket, "from you")[0] == b"thanks"
    for uri, seconds in (("/a/path", 60), (f"s3://{either_bucket}", 60), (f"s3://{either_bucket}/x", 10**6)):
        with pytest.raises(ValueError, match="want"):
            objects.presigned(uri, seconds=seconds)


# ---- through the proxy


@pytest.mark.parametrize("fault", FAULTS)
def test_each_transient_fault_is_retried_without_loss(through, fault, monkeypatch):
    """Half of all requests fail; all data is read as written."""
    proxy = through(0.5, (fault,), seed=3, hold_s=0.5)
    monkeypatch.setattr(s3_client, "LONGEST_PAUSE_S", 0.02)
    data = random.Random(1).randbytes(300_000)
    for i in range(5):
        objects.put("faces", f"trouble/{fault}/{i}", data[i:])
    assert sorted(objects.keys_unordered("faces", f"trouble/{fault}/")) == [f"trouble/{fault}/{i}" for i in range(5)]
    for i in range(5):
        assert objects.get("faces", f"trouble/{fault}/{i}")[0] == data[i:]
    objects.delete("faces", objects.keys("faces", f"trouble/{fault}/"))
    assert list(objects.keys("faces", f"trouble/{fault}/")) == []
    assert proxy.made[fault] >= 3


def test_lost_answer_to_completed_upload_is_no_error(through, monkeypatch):
    monkeypatch.setattr(objects, "PART", 5 * 2**20)
    proxy = through()
    asked = iter(["", "", "", "", "lost"])  # begin, three parts, the end
    monkeypatch.setattr(proxy, "draw", lambda: next(asked, ""))
    data = random.Random(2).randbytes(11 * 2**20)
    objects.put("faces", "uploaded", data)
    assert objects.get("faces", "uploaded")[0] == data
    assert next(asked, None) is None


def test_too_slow_answer_is_fetched_again(through, monkeypatch):
    proxy = through(patience=60)
    objects.put("faces", "dripping", bytes(4_000_000))
    monkeypatch.setattr(objects, "SLOW_BYTES_S", 1e9)  # whatever comes is too slow, after half a second
    kinds = iter(["slow"])
    monkeypatch.setattr(proxy, "draw", lambda: next(kinds, ""))
    monkeypatch.setenv("RIGFACE_S3_SILENT_S", "0.2")
    before = s3_client.counts["retries"]
    assert len(objects.get("faces", "dripping")[0]) == 4_000_000
    assert s3_client.counts["retries"] - before == 1


def test_retries_are_counted_by_operation_and_reason(through, monkeypatch):
    proxy, recorded = through(hold_s=2), []
    monkeypatch.setenv("RIGFACE_S3_SILENT_S", "1")  # a busy machine answers later than the others expect
    monkeypatch.setattr(
        s3_client, "record_metric", lambda measure, **labels: recorded.append((measure.name, *labels.values()))
    )
    faults = iter(["500", "503", "silent", "", "truncated", "reset"])
    monkeypatch.setattr(proxy, "draw", lambda: next(faults, ""))
    objects.put("faces", "counted", b"1234")
    assert objects.get("faces", "counted")[0] == b"1234"
    assert list(objects.keys("faces", "counted")) == ["counted"]
    expected = [
        ("PutObject", "InternalError"),
        ("PutObject", "SlowDown"),
        ("PutObject", "silent"),
        ("GetObject", "torn"),
    ]
    assert recorded == [("rigface_storage_retries", *first) for first in [*expected, ("GetObject", "connection")]]


def test_unavailable_storage_raises_storage_gone_after_patience(through, monkeypatch):
    proxy = through(patience=6)
    proxy.down = True
    signs, now = [], [0.0]
    monkeypatch.setattr(s3_client, "sign_of_life", lambda: signs.append(1))
    passed = lambda seconds: now.__setitem__(0, now[0] + seconds)  # noqa: E731 - a clock of pauses alone
    with monkeypatch.context() as patch:
        patch.setattr(s3_client, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=passed))
        with pytest.raises(StorageGone, match=r"for 6 s.*run the same command again"):
            objects.get("faces", "x")
    assert 5 < now[0] <= 6
    assert signs  # who watches us is told that we wait
    assert not objects.answers("faces")
    proxy.down = False
    assert objects.answers("faces")
    assert objects.answers("no-such-bucket")


def test_refused_connection_raises_storage_gone(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("RIGFACE_S3_PATIENCE_S", "0.5")
    with pytest.raises(StorageGone, match="Could not connect"):
        objects.head("faces", "x")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", PermissionError),
        (403, "RequestTimeTooSkewed", StorageGone),
        (403, "InvalidAccessKeyId", StorageGone),
        (400, "ExpiredToken", StorageGone),
        (404, "NoSuchBucket", FileNotFoundError),
        (412, "PreconditionFailed", FileExistsError),
        (400, "EntityTooLarge", OSError),
    ],
)
def test_permanent_error_is_not_retried(status, code, error):
    from botocore.exceptions import ClientError

    asked = []

    def ask(client):
        asked.append(1)
        raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")

    with pytest.raises(error):
        s3_client.call(ask, "s3://b/k")
    assert len(asked) == 1


def test_missing_credentials_are_named(s3_server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(PlanError, match="no credentials"):
        objects.head("faces", "x")


def test_threads_share_one_retry_budget():
    now = [0.0]
    budget = s3_client.Budget(per_s=5, burst=10, clock=lambda: now[0])
    waits = [budget.take() for _ in range(20)]
    assert waits[:10] == [0.0] * 10
    assert waits[10:] == pytest.approx([0.2 * i for i in range(1, 11)])
    now[0] = 100.0
    assert [budget.take() for _ in range(11)] == pytest.approx([*[0.0] * 10, 0.2])


def test_addressing_follows_endpoint(monkeypatch):
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example.org")
    assert objects.presigned("s3://clips/a b").startswith("http://s3.example.org/clips/a%20b?")
    monkeypatch.setenv("RIGFACE_S3_ADDRESSING", "virtual")
    assert objects.presigned("s3://clips/a").startswith("http://clips.s3.example.org/a?")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("RIGFACE_S3_ADDRESSING")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert "clips.s3." in objects.presigned("s3://clips/a")


def test_object_replaced_while_read_is_an_error(bucket):
    objects.put("faces", "moving", bytes(2 * 2**20))
    remote = objects.Remote("faces", "moving")
    objects.put("faces", "moving", bytes(3 * 2**20))
    with pytest.raises(OSError, match="replaced while it was read"):
        remote.read_at(100, 2**20)


def test_proxy_repeats_faults_of_its_seed():
    first, second = (Proxy("http://nowhere", 0.5, seed=5) for _ in range(2))
    assert [first.draw() for _ in range(50)] == [second.draw() for _ in range(50)]
