"""Drill: the keeper of jobs is killed four times; every accepted job ends once, with all its results."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from rigface.image import encode_png
from serve.local import free_port
from tests.conftest import ROOT
from tests.serve.conftest import photo

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(600)]
JOBS, EDITS, KILLS = 10, 4, 4


class Keeper:
    """The service as a process, started again after each kill, and a client of it."""

    def __init__(self, folder, log) -> None:
        self._port, self._folder, self._log = free_port("127.0.0.1", 0), folder, log
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=20, trust_env=False)

    def start(self) -> None:
        words = [sys.executable, "-m", "tests.drills.keeper", str(self._folder), str(self._port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, stdout=self._log, stderr=self._log, cwd=ROOT, env=environment)
        while True:  # as a readiness probe, with which it takes up the jobs of the process before
            with contextlib.suppress(httpx.HTTPError):
                if self.client.get("/readyz").status_code == 200:
                    return
            assert self.process.poll() is None, "it ended"
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def results(self) -> int:
        return sum(1 for _ in self._folder.glob("jobs/*/out/*.png"))

    def submit(self, number: int) -> str:
        """The id of an accepted job, asked for with one key until an answer comes."""
        asked = {"kind": "batch", "edits": [{"yaw_deg": 5.0 * k} for k in range(1, EDITS + 1)], "model": "tiny"}
        files = {"picture": ("a.png", encode_png(photo(1))), "request": (None, json.dumps({**asked, "steps": 2}))}
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = self.client.post("/v1/jobs", files=files, headers={"Idempotency-Key": f"order-{number}"})
                if answer.status_code == 202:
                    return answer.json()["id"]
                assert answer.status_code in (429, 503), answer.text
            time.sleep(0.2)

    def ended_jobs(self) -> list[dict]:
        """All jobs, once they have ended."""
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = self.client.get("/v1/jobs")
                jobs = answer.json()["jobs"] if answer.status_code == 200 else [{"state": "queued"}]
                if not any(job["state"] in ("queued", "running") for job in jobs):
                    return jobs
            time.sleep(0.2)


def test_kill_9_of_the_keeper_of_jobs(tmp_path, results):
    """Ten jobs of four edits, submitted while their keeper is killed four times; a key asks for each job until it is
    accepted.
    """
    began, accepted = time.monotonic(), []
    with open(tmp_path / "log", "w+") as log:
        keeper = Keeper(tmp_path / "queue", log)
        keeper.start()
        submitter = threading.Thread(target=lambda: accepted.extend(map(keeper.submit, range(JOBS))), daemon=True)
        submitter.start()
        try:
            for kills in range(1, KILLS + 1):
                while keeper.results() < kills * JOBS * EDITS // (KILLS + 2):
                    assert keeper.process.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.01)
                keeper.kill()
                keeper.start()
            submitter.join(120)
            kept = keeper.ended_jobs()
            bodies = {job["id"]: [keeper.client.get(f"/v1/jobs/{job['id']}/results/{k}") for k in range(EDITS)]
                      for job in kept}  # fmt: skip
        finally:
            keeper.kill()
    whole = {name for name, answers in bodies.items() if all(a.status_code == 200 and a.content for a in answers)}
    first = [answer.content for answer in bodies[accepted[0]]]  # equal edits give equal images
    count = {
        "expected": JOBS * EDITS,
        "found": keeper.results(),
        "duplicates": (len(kept) - len(set(accepted))) * EDITS,
        "lost": sum(name not in whole for name in accepted) * EDITS,
        "different": sum(a.content != b for answers in bodies.values() for a, b in zip(answers, first)),
        "blamed": sum(job["state"] != "done" for job in kept),
    }
    seconds = round(time.monotonic() - began, 1)
    results.append({"drill": "kill_9_of_the_keeper_of_jobs", **count, "killed": KILLS, "seconds": seconds})
    assert len(set(accepted)) == JOBS
    assert count.pop("expected") == count.pop("found")
    assert not any(count.values()), count
