"""Environments of containers, proxies and batch systems, as processes of them see it."""

import gc
import getpass
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from rigface import host_environment
from rigface.host_environment import is_loopback, repair_environment, spare_imports


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """An environment without proxies and names, restored afterwards."""
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    return os.environ


@pytest.mark.parametrize("home", ["/nowhere", None])
def test_user_without_passwd_entry_gets_name_and_home(environment, monkeypatch, tmp_path, home):
    def missing(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", missing)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment.pop("HOME")
    environment |= {"HOME": home} if home else {}
    repair_environment()
    assert getpass.getuser() == f"uid{os.getuid()}"
    assert Path(environment["HOME"]).parent == tmp_path
    assert Path(environment["HOME"]).stat().st_mode & 0o777 == 0o700


def test_home_in_temporary_folder_is_not_taken_from_another_user(environment, monkeypatch, tmp_path):
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment.pop("HOME")
    theirs = tmp_path / f"rigface-home-{os.getuid()}"
    theirs.mkdir(mode=0o777)
    theirs.chmod(0o777)
    repair_environment()
    assert environment["HOME"] != str(theirs)


def test_existing_name_and_home_stay(environment, tmp_path):
    repair_environment()
    assert environment["HOME"] == str(tmp_path)
    assert "USER" not in environment


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_loopback_is_reached_without_proxy(environment, name):
    environment |= {name: "http://proxy.example.com:3128", "NO_PROXY": "intranet,127.0.0.1"}
    repair_environment()
    assert environment["no_proxy"] == environment["NO_PROXY"] == "intranet,127.0.0.1,localhost,::1"


def test_no_proxy_is_not_set_without_proxy(environment):
    repair_environment()
    assert "NO_PROXY" not in environment


@pytest.mark.parametrize(("length", "short"), [(20, False), (36, False), (37, True), (90, True)])
def test_long_tmpdir_moves_sockets_of_ray(environment, monkeypatch, length, short):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * (length - 1))
    repair_environment()
    assert environment.get("RAY_TMPDIR") == ("/tmp" if short else None)
    socket = "/ray/session_2026-11-22_09-46-42_182000_4194304/sockets/plasma_store"
    assert len(environment.get("RAY_TMPDIR", tempfile.tempdir)) + len(socket) <= 107


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.9", True),
        ("[::1]", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("example.com", False),
    ],
)
def test_is_loopback(host, loopback):
    assert is_loopback(host) is loopback


def test_garbage_collection_begins_after_the_imports_and_passes_over_them(monkeypatch):
    monkeypatch.setattr(host_environment, "IMPORTED", 5000)
    thresholds, hooks, frozen = gc.get_threshold(), len(gc.callbacks), gc.get_freeze_count()
    spare_imports()
    kept = [[] for _ in range(2000)]
    assert gc.get_threshold()[0] == 5000
    kept += [[] for _ in range(4000)]
    assert (gc.get_threshold(), len(gc.callbacks)) == (thresholds, hooks)
    assert gc.get_freeze_count() >= frozen + 5000
