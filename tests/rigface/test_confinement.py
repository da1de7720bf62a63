"""Rights of a confined process: files, network, programs and other processes."""

import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from rigface import confinement
from rigface.worker_process import WorkerProcess

MISSING = confinement.missing_parts()
needs_landlock = pytest.mark.skipif("Landlock" in MISSING, reason="needs Landlock, which this kernel lacks")
needs_seccomp = pytest.mark.skipif("seccomp" in MISSING, reason="needs seccomp, which this kernel lacks")


class Prisoner:
    """Confined process that tries what it is told, in a thread that is older than the confinement if it is told so."""

    def __init__(self, folder, network=False):
        self._asked, self._answered = threading.Event(), threading.Event()
        threading.Thread(target=self._try_later, daemon=True).start()
        confinement.limit_memory(256)
        confinement.confine_process(readable=[f"{folder}/read"], writable=[f"{folder}/write"], network=network)

    def __call__(self, words, begin, file=None):
        if words[0] == "in a thread":
            self._words = words[1:]
            self._asked.set()
            assert self._answered.wait(10)
            return self._answer
        return file.read() if file is not None else self._try(*words)

    def _try_later(self):
        self._asked.wait()
        self._answer = self._try(*self._words)
        self._answered.set()

    def _try(self, what, *rest):
        try:
            return {
                "open": lambda: open(*rest).close(),
                "list": lambda: len(os.listdir(*rest)) and None,
                "delete": lambda: os.unlink(*rest),
                "socket": lambda: socket.socket(*rest).close(),
                "start": lambda: subprocess.run(["true"], check=True) and None,
                "signal": lambda: os.kill(*rest),
                "take": lambda: len(np.ones(2**27)) and None,
            }[what]()
        except (OSError, MemoryError) as e:
            return type(e).__name__


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prison")
    for name in ("read", "write", "other"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("content")
    return folder


@pytest.fixture(scope="module")
def prisoner(folder):
    child = WorkerProcess("tests.rigface.test_confinement:Prisoner", {"folder": str(folder)}, 60)
    yield child
    child.close()


@needs_landlock
@pytest.mark.parametrize(
    ("words", "is_allowed"),
    [
        (("open", "read/file"), True),
        (("list", "read"), True),
        (("open", "read/file", "w"), False),
        (("open", "write/file", "w"), True),
        (("open", "write/new", "w"), True),
        (("open", "other/file"), False),
        (("list", "other"), False),
        (("open", "other/new", "w"), False),
        (("delete", "other/file"), False),
    ],
    ids=str,
)
def test_confined_process_opens_only_files_that_it_was_granted(prisoner, folder, words, is_allowed):
    what, path, *mode = words
    assert prisoner((what, str(folder / path), *mode)) == (None if is_allowed else "PermissionError")


@needs_landlock
def test_confined_process_reads_no_environment_and_signals_no_process_of_its_user(prisoner):
    assert prisoner(("open", f"/proc/{os.getpid()}/environ")) == "PermissionError"
    assert prisoner(("signal", os.getpid(), signal.SIGCONT)) == "PermissionError"


def test_confined_process_reads_a_file_that_is_handed_over(prisoner, folder):
    for _ in range(2):
        with open(folder / "other" / "file", "rb") as file:
            assert prisoner(("read",), file) == b"content"


@needs_seccomp
@pytest.mark.parametrize("words", [("socket", socket.AF_INET), ("socket", socket.AF_UNIX), ("start",)], ids=str)
def test_confined_process_has_no_network_and_starts_no_programs(prisoner, words):
    assert prisoner(words) == "PermissionError"


@needs_seccomp
def test_threads_that_are_older_than_the_confinement_have_no_network(prisoner):
    assert prisoner(("in a thread", "socket", socket.AF_INET)) == "PermissionError"


def test_memory_of_a_confined_process_is_limited(prisoner):
    assert prisoner(("take",)) == "MemoryError"


def test_confined_process_of_remote_files_keeps_the_network(folder):
    child = WorkerProcess("tests.rigface.test_confinement:Prisoner", {"folder": str(folder), "network": True}, 60)
    assert child(("socket", socket.AF_INET)) is None
    assert child(("open", str(folder / "other" / "file"))) is None
    child.close()


def test_kernel_without_confinement_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(confinement, "missing_parts", lambda: ["Landlock"])
    confinement.warn_of_missing.cache_clear()
    for _ in range(2):
        confinement.warn_of_missing()
    confinement.warn_of_missing.cache_clear()
    assert [record.message.partition(":")[0] for record in caplog.records] == ["this system has no Landlock"]


def test_places_that_do_not_exist_are_passed_over(tmp_path):
    child = WorkerProcess("tests.rigface.test_confinement:Prisoner", {"folder": str(tmp_path / "nowhere")}, 60)
    assert child(("open", os.devnull, "w")) is None
    assert child(("open", str(Path(confinement.__file__)))) is None
    child.close()
