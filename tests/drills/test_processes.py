"""Drills: killed processes and a full object store; every row is there once."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.extract.config import debug
from pipelines.extract.job import extract
from rigface.image import encode_jpeg
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.conftest import ROOT
from tests.pipelines.extract.test_resume import children_of

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(600)]


def shards(out: str) -> int:
    return sum(1 for _ in Store(out).paths("faces", ".parquet"))


def wait_for(out: str, wanted: int, process) -> bool:
    """Wait for so many shards; False if the run ended before."""
    while shards(out) < wanted:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def test_kill_9_of_workers(ray_cluster, clips, command, nothing_lost, tmp_path):
    """Actors and their decoder processes, four times; the run itself continues."""
    out = str(tmp_path / "out")
    process = command(str(clips), out, "--address", ray_cluster, "--workers", "2")
    killed = 0
    for wanted in (2, 6, 10, 14):
        if wait_for(out, wanted, process):
            found = [
                pid
                for pid, name in children_of(os.getpid()).items()
                if "StageActor" in name or "pipelines.telemetry.worker_process" in name
            ]
            for pid in found[:2]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
    assert process.wait(400) == 0, process.log.read_text()
    assert killed >= 4
    nothing_lost(out, killed=killed)


def test_kill_9_of_the_driver(ray_cluster, clips, command, nothing_lost, tmp_path):
    """Eight times at random moments, then one run to the end."""
    out, chance, killed = str(tmp_path / "out"), random.Random(3), 0
    for i in range(8):
        process = command(str(clips), out, "--address", ray_cluster, "--workers", "2")
        if wait_for(out, 2 + 3 * i, process):
            time.sleep(chance.uniform(0, 0.5))
            process.kill()
            killed += 1
        process.wait()
    last = command(str(clips), out, "--address", ray_cluster)
    assert last.wait(300) == 0, last.log.read_text()
    assert killed >= 6
    nothing_lost(out, killed=killed)


def test_kill_9_of_one_of_two_drivers(ray_cluster, clips, command, nothing_lost, tmp_path):
    """Twice; another process takes its share each time, and the last run joins what they did."""
    out = str(tmp_path / "out")
    process = command(str(clips), out, "--address", ray_cluster, "--workers", "2", "--jobs", "2")
    killed: list[int] = []
    for wanted in (4, 10):
        assert wait_for(out, wanted, process), process.log.read_text()
        drivers = [
            child.pid
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline()) and child.pid not in killed
        ]
        os.kill(drivers[0], signal.SIGKILL)
        killed.append(drivers[0])
    assert process.wait(400) == 0, process.log.read_text()
    assert process.log.read_text().count("was killed by SIGKILL; another takes its share") == 2
    nothing_lost(out, killed=len(killed))


def test_kill_9_while_changed_inputs_leave_their_shards(clips, command, nothing_lost, tmp_path, silent):
    """Each run is killed as soon as an object of the first content is gone or written again."""
    folder, out, fresh = shutil.copytree(clips, tmp_path / "clips"), str(tmp_path / "out"), str(tmp_path / "fresh")
    extract(debug((str(folder),), out), silent)
    for i in range(3):
        fakes.video(folder / f"short {i}.mp4", (0.2 * i,), frames=7, seed=10 + i)
    (folder / "picture.jpg").write_bytes(encode_jpeg(fakes.picture((0.1, 0.6))))
    extract(debug((str(folder),), fresh), silent)
    killed = 0
    for _ in range(4):
        before = written(out)
        process = command(str(folder), out, "--in-process", "always")
        while process.poll() is None and before.items() <= written(out).items():
            time.sleep(0.002)
        killed += process.poll() is None
        process.kill()
        process.wait()
    last = command(str(folder), out, "--in-process", "always")
    assert last.wait(200) == 0, last.log.read_text()
    assert killed >= 1
    nothing_lost(out, expected=fresh, killed=killed)


def written(out: str) -> dict[Path, int]:
    """When each object of faces/ and inputs/ was written."""
    found = {}
    for path in (p for name in ("faces", "inputs") for p in Path(out, name).rglob("*.parquet")):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


SEPARATE_POOLS = """
import re, sys, threading
from dataclasses import replace
import ray
from ray._private.internal_api import memory_summary
from pipelines.extract.config import Pool, debug
from pipelines.extract.job import extract
videos, out, store = sys.argv[1:]
config = debug((videos,), out)
pools = {name: Pool(cpus=0.5) for name in ("reconstruct", "mask_and_score", "write")}
settings = replace(config.settings, chunk_frames=120)
ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=int(store) << 20)
address = ray.get_runtime_context().gcs_address
done, fullest = threading.Event(), [0.0]
def watch():
    while not done.wait(0.5):
        match = re.search(r"([0-9.]+)% full", memory_summary(address=address, stats_only=True))
        fullest.append(float(match[1]) if match else 0.0)
threading.Thread(target=watch, daemon=True).start()
config = replace(config, in_process="never", settings=settings, object_store_mb=int(store))
extract(replace(config, detect_faces=Pool(actors=2, cpus=0.5), **pools))
done.set()
print(max(fullest))
"""


def test_object_store_full(clips, nothing_lost, tmp_path):
    """Every stage in actors of its own, faces passed between processes, and the smallest store that Ray accepts."""
    more = tmp_path / "more"
    more.mkdir()
    for i in range(6):
        fakes.video(more / f"crowd {i}.mp4", tuple(k / 6 for k in range(6)), frames=120, seed=i, size=(96, 400))
    outs = {store: str(tmp_path / store) for store in ("600", "80")}
    fullest = {}
    for store, out in outs.items():
        words = [sys.executable, "-c", SEPARATE_POOLS, str(more), out, store]
        done = subprocess.run(words, capture_output=True, text=True, timeout=400, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        fullest[store] = float(done.stdout.split()[-1])
    assert fullest["80"] > 75 > fullest["600"], "the small store was never full"
    nothing_lost(outs["80"], expected=outs["600"], store_mb=80, fullest_percent=fullest["80"])
