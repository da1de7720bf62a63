"""The wheel: built from a clean checkout, installed into an empty folder, run away from the repository."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import av
import pytest

import rigface

ROOT = Path(__file__).parent.parent
PACKAGES = ("rigface", "pipelines", "serve")


def run(*words, **options):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checkout(folder):
    """A copy of the files that git knows or would add."""
    if (ROOT / ".git").exists():
        listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
        for name in listed:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
    else:
        shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".venv", "out", "runs"))
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this commit, built without network."""
    source, out = checkout(tmp_path_factory.mktemp("checkout")), tmp_path_factory.mktemp("dist")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "--wheel-dir", out, source)
    (path,) = out.glob("*.whl")
    return path


def keep_machine_code(site):
    """Give installed loops what numba compiled of the same lines here: it asks for a file's time and size only."""
    for index in (ROOT / "rigface").rglob("*.nbi"):
        source = index.parent.parent / f"{index.name.partition('.')[0]}.py"
        copy = site / source.relative_to(ROOT)
        if source.read_bytes() == copy.read_bytes():
            shutil.copystat(source, copy)
            copy.parent.joinpath("__pycache__").mkdir(exist_ok=True)
            for kept in index.parent.glob(f"{index.stem}.*"):
                shutil.copy2(kept, copy.parent / "__pycache__")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs the installed `rigface` in an empty folder; its dependencies are those of this environment."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    run(*pip, "--target", site, wheel)
    keep_machine_code(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = run(sys.executable, "-c", "import rigface; print(rigface.__file__)", cwd=empty, env=environment)
    assert Path(where.strip()).is_relative_to(site)
    return lambda *words: run(site / "bin" / "rigface", *words, cwd=empty, env=environment)


def test_version_in_code_is_version_of_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == rigface.__version__


def test_wheel_holds_every_package_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    if (ROOT / ".git").exists():
        tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES, cwd=ROOT).split("\n")
        assert [name for name in tracked if name and (ROOT / name).is_file() and name not in names] == []
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert not [name for name in names if name.startswith(("tests/", "infra/", "docs/", "benchmarks/", "scripts/"))]


def test_wheel_holds_licences_and_model_card(wheel):
    names = {name.partition(".dist-info/licenses/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"LICENSE", "NOTICE", "THIRD_PARTY.md", "MODEL_CARD.md"} <= names


def test_installed_command_prints_its_version(installed):
    assert rigface.__version__ in installed("--version")


def test_installed_command_prints_help(installed):
    assert "extract" in installed("--help")


def test_installed_command_edits_a_picture(installed, tmp_path):
    with av.open(str(ROOT / "tests/fixtures/clip.mp4")) as clip:
        next(clip.decode(video=0)).to_image().save(tmp_path / "photo.png")
    installed("edit", tmp_path / "photo.png", tmp_path / "out.png", "--yaw", "10", "--checkpoint", "preview")
    assert (tmp_path / "out.png").stat().st_size > 10_000
