"""A job killed at random points gives the rows of an undisturbed run. The drill `kill_9_of_the_driver` kills more."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.extract.config import debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import extract
from rigface.storage.store import Store
from tests.pipelines.conftest import faces_of, identities_of, inputs_of

KILLS = 3  # during the survey; on Ray during the units, with its actors, and while finalizing; the last without Ray


def children_of(parent: int) -> dict[int, str]:
    """Descendants of a process and their command lines."""
    below: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                ppid = int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
                names[int(entry.name)] = entry.joinpath("cmdline").read_bytes().decode(errors="replace")
            except (OSError, IndexError):
                continue
            below.setdefault(ppid, []).append(int(entry.name))
    found, queue = {}, [parent]
    while queue:
        for pid in below.get(queue.pop(), []):
            found[pid] = names[pid]
            queue.append(pid)
    return found


def start(videos: Path, out: Path, address: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines", "extract", str(videos), str(out), "--preset", "debug"]
    command += ["--address", address] if address else ["--in-process", "always"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def objects(out: Path) -> int:
    return sum(
        1 for folder in ("faces", "inputs", ".rigface/units", ".rigface/plans") for p in (out / folder).rglob("*.*")
    )


def kill_at(process: subprocess.Popen, out: Path, wanted: int, wait_s: float) -> bool:
    """SIGKILL after so many objects exist and a moment has passed; False if the process ended before."""
    limit = time.monotonic() + 60
    while objects(out) < wanted and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    time.sleep(wait_s)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_runs_resume_to_the_same_rows(ray_cluster, clips, silent, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    extract(debug((str(clips),), str(whole)), silent)
    total = objects(whole)

    chance = random.Random(7)
    killed = 0
    for i in range(KILLS):
        process = start(clips, out, ray_cluster if i else "")  # the survey is the same without Ray
        wanted = total - 1 if i == KILLS - 1 else objects(out) + (1, 6)[i]
        if kill_at(process, out, wanted, chance.uniform(0, 0.3)):
            killed += 1
            if i == 1:  # and its actors
                for pid, name in children_of(os.getpid()).items():
                    is_own = name.rstrip("\0").endswith(f"\0{os.getpid()}")  # a child that this process keeps
                    if "StageActor" in name or ("pipelines.telemetry.worker_process" in name and not is_own):
                        os.kill(pid, signal.SIGKILL)
    last = start(clips, out, "")
    text = last.communicate()[0]
    assert last.returncode == 0, text
    assert killed >= KILLS - 1, "the job was too fast to be killed"

    assert faces_of(out).equals(faces_of(whole))
    assert inputs_of(out).equals(inputs_of(whole))
    assert identities_of(out) == identities_of(whole)
    assert len(set(identities_of(out).values())) >= 2
    done = [[sorted(names) for names in FaceDataset(Store(str(place))).parts()] for place in (out, whole)]
    assert done[0] == done[1]
    assert not list((out / ".rigface/tmp").iterdir()) or killed  # unfinished files are removed after an hour
