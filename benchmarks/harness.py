"""Shared code of the benchmarks: paths, the machine, the commit measured, and files of results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
CLIP = ROOT / "tests" / "fixtures" / "clip.mp4"


def commit() -> str:
    """The commit measured, marked if the tree differs from it; files in benchmarks/results do not count."""
    git, code = ["git", "-C", str(ROOT)], [".", ":!benchmarks/results"]
    try:
        name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def machine() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_gb() -> float:
    """Peak of this process's resident memory so far; that of the process which started it is not counted."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def environment() -> dict[str, Any]:
    """Machine, cores and commit, for a result."""
    return {"machine": machine(), "cores": os.cpu_count(), "commit": commit()}


def read(name: str) -> dict[str, Any]:
    """An earlier result; empty if there is none."""
    file = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return result


def write(name: str, result: Mapping[str, Any]) -> None:
    """Write a result to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, default=float) + "\n")
