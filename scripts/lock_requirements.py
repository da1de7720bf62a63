"""Write `infra/docker/requirements.lock`: every package of the images, its version and the hash of its file.

pip resolves what serving, training and traces need, at the versions of constraints.txt, and reports the files that it
would install on this machine: run it on Linux x86-64 with the Python of the images. Nothing is installed.

    python scripts/lock_requirements.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "infra" / "docker" / "requirements.lock"
EXTRAS = ("serve", "train", "traces")
HEAD = "# Packages of the images for Linux x86-64, Python {}. Made by scripts/lock_requirements.py, not by hand.\n"


def requirements() -> list[str]:
    """What the images need directly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [package for extra in EXTRAS for package in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *extras, "setuptools"]  # which builds the packages that have no wheel


def resolve() -> dict[str, Any]:
    """The report of pip."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["--constraint", str(ROOT / "constraints.txt"), *requirements()]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def lock(report: dict[str, Any]) -> str:
    """One line a package; ValueError for a file without a hash."""
    lines = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"{name} {version}: the index gives no hash")
        lines.append(f"{name.lower().replace('_', '-')}=={version} --hash=sha256:{digest}\n")
    return HEAD.format("{}.{}".format(*sys.version_info)) + "".join(sorted(lines))


if __name__ == "__main__":
    LOCK.write_text(lock(resolve()))
