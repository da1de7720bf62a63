"""Drills: failing, absent and full storage, and wrong clocks; every row is there once."""

import contextlib
import os
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipelines.extract.config import debug
from pipelines.extract.job import extract
from rigface.storage import objects
from rigface.storage.store import Store
from tests.conftest import ROOT
from tests.s3_proxy import FAULTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@contextlib.contextmanager
def breaking(proxy, share: float):
    """One request in 1/share fails, with every kind of fault in turn."""
    proxy.made.clear()
    before = proxy.requests
    proxy.share, proxy.faults = share, FAULTS
    try:
        yield lambda: {"requests": proxy.requests - before, "faults": sum(proxy.made.values())}
    finally:
        proxy.share = 0.0


def outage_after(proxy, store: Store, units: int, seconds: float, gone: list[float]) -> threading.Thread:
    """Stop the storage for some seconds once so many units exist."""

    def run() -> None:
        while sum(1 for _ in store.paths("faces", ".parquet")) < units + 1:  # one is the schema
            time.sleep(0.2)
        proxy.down = True
        time.sleep(seconds)
        proxy.down = False
        gone.append(seconds)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_storage_faults_and_short_outage(clips_on_s3, bucket, s3_behind, silent, nothing_lost):
    """Videos and dataset on S3; one request in twelve fails, and the storage is absent for two seconds."""
    out, gone = f"{bucket}/drills/breaks", []
    with breaking(s3_behind, 1 / 12) as counts:
        watcher = outage_after(s3_behind, Store(out), 6, 2.0, gone)
        extract(debug((clips_on_s3,), out), silent)
        watcher.join(10)
    assert gone
    assert counts()["faults"] > 10
    nothing_lost(out, **counts())


@pytest.mark.drill
def test_storage_outage_of_a_minute(ray_cluster, clips_on_s3, bucket, s3_behind, silent, nothing_lost):
    out, gone = f"{bucket}/drills/minute", []
    watcher = outage_after(s3_behind, Store(out), 6, 60.0, gone)
    extract(replace(debug((clips_on_s3,), out), in_process="never"), silent)
    watcher.join(10)
    assert gone
    nothing_lost(out, away_s=60)


@pytest.mark.drill
def test_storage_outage_longer_than_retries(clips_on_s3, bucket, s3_behind, command, nothing_lost):
    """The job ends with a reason and no failed input; a second run continues."""
    out, gone = f"{bucket}/drills/longer", []
    watcher = outage_after(s3_behind, Store(out), 6, 30.0, gone)
    process = command(clips_on_s3, out, env={"RIGFACE_S3_PATIENCE_S": "5"})
    assert process.wait(200) == 1
    output = process.log.read_text()
    last = output.strip().splitlines()[-1]
    assert "the storage did not answer properly for 5 s" in last
    assert "Traceback" not in output
    watcher.join(40)
    again = command(clips_on_s3, out)
    assert again.wait(200) == 0, again.log.read_text()
    nothing_lost(out, patience_s=5, away_s=30)


@pytest.mark.drill
def test_full_disk(clips, whole, command, nothing_lost, tmp_path):
    """OUT on a file system that fills up: the job ends with a reason; with more room a second run continues."""
    small = tmp_path / "small"
    small.mkdir()
    size = sum(p.stat().st_size for p in Path(whole).rglob("*") if p.is_file()) // 2
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"may not mount a small file system: {mount.stderr.decode().strip()}")
    try:
        process = command(str(clips), str(small / "out"))
        assert process.wait(200) == 1
        output = process.log.read_text()
        assert "no space left" in output.strip().splitlines()[-1].lower()
        assert "Traceback" not in output
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        again = command(str(clips), str(small / "out"))
        assert again.wait(200) == 0, again.log.read_text()
        nothing_lost(str(small / "out"), room_at_first=size)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


# Replaces `time.time` at the start of Python. It must pickle by name, because Ray sends it to other processes.
SKEWED = """
import os, time
real, by = time.time, float(os.environ.get("SKEW_S", 0))
def skewed():
    return real() + by
skewed.__module__, skewed.__name__, skewed.__qualname__ = "time", "time", "time"
time.time = skewed
"""


@pytest.mark.drill
def test_clock_skew(clips_on_s3, bucket, command, nothing_lost, tmp_path):
    """Hosts whose clocks are days apart use one output: the second is refused while the first runs; the first is
    killed; a third, whose clock is behind, takes over once the lease has ended by the storage's clock, and finishes."""
    (tmp_path / "sitecustomize.py").write_text(SKEWED)
    out = f"{bucket}/drills/clock"

    def host(days: float):
        path = f"{tmp_path}{os.pathsep}{ROOT}"
        return command(clips_on_s3, out, env={"SKEW_S": str(days * 86400), "PYTHONPATH": path})

    first = host(0)
    while not objects_under(out):
        time.sleep(0.2)
        assert first.poll() is None, first.log.read_text()
    second = host(2)
    assert second.wait(100) == 1
    assert "is being written by another run" in second.log.read_text()
    first.kill()
    first.wait()
    lease = Store(out).bucket_and_key(".rigface/lease.json")
    data = objects.get(*lease)[0].replace(
        b'"machine": "', b'"machine": "elsewhere '
    )  # else its process is seen to be gone
    objects.put(*lease, data)
    third = host(-2)
    assert third.wait(100) == 1
    waits = third.log.read_text()
    assert "its lease ends in" in waits
    time.sleep(62)
    last = host(-2)
    assert last.wait(200) == 0, last.log.read_text()
    nothing_lost(out, skew_days=4)


@pytest.mark.drill
def test_suspended_run(clips_on_s3, bucket, command, nothing_lost):
    """All processes of a run stop, as if its machine slept; another run takes over and finishes; the first wakes up."""
    out = f"{bucket}/drills/suspended"
    first = command(clips_on_s3, out)
    while not objects_under(out):
        time.sleep(0.2)
        assert first.poll() is None, first.log.read_text()
    processes = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        time.sleep(62)
        second = command(clips_on_s3, out)
        assert second.wait(200) == 0, second.log.read_text()
    finally:
        for process in processes:
            process.resume()
    assert first.wait(100) == 1
    assert "another has taken over" in first.log.read_text()
    nothing_lost(out, suspended_s=62)


def objects_under(out: str) -> int:
    return sum(1 for path in Store(out).paths("faces", ".parquet"))
