"""Fixtures of the drills: inputs, the dataset of an undisturbed run, and the file of the counts."""

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

from pipelines.extract.config import debug
from pipelines.extract.job import extract
from pipelines.extract.progress import Progress
from pipelines.run_info import git_commit
from rigface.storage import objects
from tests.conftest import ROOT
from tests.drills.count import Count, compare

RESULTS = os.environ.get("RIGFACE_DRILLS")  # a file; `make drills` names it


@pytest.fixture(scope="session")
def clips_on_s3(clips, bucket) -> str:
    """The clips in a bucket."""
    for path in clips.iterdir():
        objects.put("faces", f"clips/{path.name}", path.read_bytes())
    return f"{bucket}/clips/"


@pytest.fixture(scope="session")
def whole(clips, tmp_path_factory) -> str:
    """The dataset of an undisturbed run in this process, on a disk."""
    out = str(tmp_path_factory.mktemp("whole") / "out")
    extract(debug((str(clips),), out), Progress(Console(file=io.StringIO())))
    return out


@pytest.fixture(scope="session")
def results() -> Iterator[list[dict]]:
    """Counts of this session; they replace those of the same drills in the file RESULTS, if it is set."""
    counts: list[dict] = []
    yield counts
    if RESULTS and counts:
        about = {"commit": git_commit(), "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
        kept = json.loads(Path(RESULTS).read_text()) if Path(RESULTS).exists() else {}
        kept |= {count["drill"]: {**{k: v for k, v in count.items() if k != "drill"}, **about} for count in counts}
        Path(RESULTS).write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    for count in counts:
        print(f"\n{count['drill']}: " + ", ".join(f"{k} {v}" for k, v in count.items() if k != "drill"))


@pytest.fixture
def nothing_lost(whole, results, request) -> Callable[..., Count]:
    """Ends a drill: count, print, store, and fail unless every row is there once."""
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
    """Starts `rigface extract --preset debug` as a process, on Ray by default; its output is in its `log`."""
    started: list[subprocess.Popen] = []

    def start(videos: str, out: str, *more: str, env: dict[str, str] | None = None) -> subprocess.Popen:
        words = [sys.executable, "-m", "pipelines", "extract", videos, out, "--preset", "debug", *more]
        words += [] if "--in-process" in more else ["--in-process", "never"]
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
