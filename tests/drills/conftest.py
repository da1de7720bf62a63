"""Inputs that all drills run on, the dataset that an undisturbed run makes of them, and where the counts are kept."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.config import debug
from pipelines.extract import extract
from pipelines.output import git_commit
from pipelines.progress import Progress
from rigface import fake, objects
from rigface.image import encode_jpeg
from tests.conftest import ROOT
from tests.drills.count import Count, compare

RESULTS = os.environ.get("RIGFACE_DRILLS")  # a file; `make drills` names it


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Some thirty units of work: cut videos, short ones, a picture, nobody, and two bad files."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(6):
        fake.video(folder / f"long {i}.mp4", (0.1 * i, 0.1 * i + 0.45), frames=26, seed=i)
    for i in range(3):
        fake.video(folder / f"short {i}.mp4", (0.3 * i,), frames=6, seed=i)
    fake.video(folder / "nobody.mp4", (), frames=20)
    (folder / "picture.jpg").write_bytes(encode_jpeg(fake.picture((0.7,))))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "torn.mp4").write_bytes((folder / "long 0.mp4").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="session")
def clips_on_s3(clips, bucket) -> str:
    """The same in a bucket."""
    for path in clips.iterdir():
        objects.put("faces", f"clips/{path.name}", path.read_bytes())
    return f"{bucket}/clips/"


@pytest.fixture(scope="session")
def whole(ray_cluster, clips, tmp_path_factory) -> str:
    """What an undisturbed run makes of them, on a disk."""
    out = str(tmp_path_factory.mktemp("whole") / "out")
    extract(debug((str(clips),), out), Progress(Console(file=io.StringIO())))
    return out


@pytest.fixture(scope="session")
def results() -> Iterator[list[dict]]:
    """Counts of this session; written to a file where one is named."""
    found: list[dict] = []
    yield found
    if RESULTS and found:
        about = {"commit": git_commit(), "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
        Path(RESULTS).write_text(json.dumps({**about, "drills": found}, indent=1) + "\n")
    for one in found:
        print(f"\n{one['drill']}: " + ", ".join(f"{k} {v}" for k, v in one.items() if k != "drill"))


@pytest.fixture
def nothing_lost(whole, results, request) -> Callable[..., Count]:
    """Ends a drill: count, show, keep, and fail unless everything is there once."""
    began = time.monotonic()

    def check(out: str, expected: str = "", **more: object) -> Count:
        count = compare(expected or whole, out)
        print(f"\n{request.node.name}\n{count}")
        took = round(time.monotonic() - began, 1)
        results.append({"drill": request.node.name.removeprefix("test_"), **vars(count), **more, "seconds": took})
        assert count.is_exact, f"{request.node.name}:\n{count}"
        return count

    return check


@pytest.fixture
def command(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `rigface extract --preset debug` as a process; what it says is in its `log`."""
    started: list[subprocess.Popen] = []

    def start(videos: str, out: str, *more: str, env: dict[str, str] | None = None) -> subprocess.Popen:
        words = [sys.executable, "-m", "pipelines", "extract", videos, out, "--preset", "debug", *more]
        log = open(tmp_path / f"command {len(started)}.log", "w+")  # noqa: SIM115 - read by the test
        process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        )  # fmt: skip
        process.log = Path(log.name)  # type: ignore[attr-defined]
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
