"""Drills: killed processes and a full object store; every row is there once."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from rigface.storage.store import Store
from rigface.testing import fakes
from tests.conftest import ROOT
from tests.pipelines.extract.test_resume import children_of

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(600)]


def units(out: str) -> int:
    return sum(1 for _ in Store(out).paths("faces", ".parquet"))


def wait_for(out: str, wanted: int, process) -> bool:
    """Wait for so many units; False if the run ended before."""
    while units(out) < wanted:
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
