"""`pipelines.run_info`: rigface.json and the git commit in it."""

import subprocess
from pathlib import Path

import pytest

from pipelines import run_info
from rigface.errors import PlanError
from rigface.storage.store import Store

IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.org")


def test_damaged_files_of_an_output_are_named(tmp_path):
    (tmp_path / "rigface.json").write_text('{"config": ')
    (tmp_path / "part.parquet").write_bytes(b"PAR1 torn")
    store = Store(str(tmp_path))
    with pytest.raises(PlanError, match=r"rigface\.json is damaged .* choose another OUT"):
        run_info.load(store)
    for read in (store.table, store.schema):
        with pytest.raises(PlanError, match=r"part\.parquet is damaged .*; delete it"):
            read("part.parquet")


@pytest.fixture
def repository(tmp_path):
    """A git repository with one commit; returns its folder and that commit."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(project_name: str) -> tuple[Path, str]:
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{project_name}"\n')
        git("init", "-q")
        git("add", ".")
        git(*IDENTITY, "commit", "-qm", "first")
        return tmp_path, git("rev-parse", "HEAD")

    return commit


@pytest.fixture(autouse=True)
def no_image_commit(monkeypatch):
    monkeypatch.delenv("RIGFACE_COMMIT", raising=False)


def test_commit_of_own_checkout_is_recorded(repository, monkeypatch):
    folder, commit = repository("rigface")
    monkeypatch.setattr(run_info, "ROOT", folder)
    assert run_info.git_commit() == commit
    (folder / "pyproject.toml").write_text('[project]\nname = "rigface"\nversion = "2"\n')
    assert run_info.git_commit() == commit + "+"


def test_package_installed_inside_another_repository_has_no_commit(repository, monkeypatch):
    folder, _ = repository("another")
    site_packages = folder / ".venv/lib/site-packages"
    (site_packages / "pipelines").mkdir(parents=True)
    monkeypatch.setattr(run_info, "ROOT", site_packages)
    assert run_info.git_commit() == ""


def test_packages_copied_to_the_top_of_another_repository_have_no_commit(repository, monkeypatch):
    folder, _ = repository("another")
    monkeypatch.setattr(run_info, "ROOT", folder)
    assert run_info.git_commit() == ""
    monkeypatch.setenv("RIGFACE_COMMIT", "abc123")
    assert run_info.git_commit() == "abc123"


def test_run_info_is_read_back_as_written(tmp_path):
    store = Store(str(tmp_path / "out"))
    assert run_info.load(store) is None
    run_info.write(store, {"settings": {"fps": 5.0}, **run_info.software()})
    info = run_info.load(store)
    assert info["settings"] == {"fps": 5.0}
    assert info["packages"]["numpy"]
