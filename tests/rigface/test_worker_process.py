"""Worker process: what its environment holds, and which answers are believed."""

import os
import signal
import sys

import numpy as np
import pytest

from rigface.errors import BadVideo
from rigface.types import Frame
from rigface.worker_process import WorkerDied, WorkerProcess


class Call:
    """A value whose pickle calls a function, as a hostile child would send."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


class Worker:
    """Answers as its argument says, in the child."""

    def __call__(self, what, begin):
        if what == "environment":
            return dict(os.environ)
        if what == "frame":
            return Frame(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), 3, 0.5)
        if what == "unknown error":
            import av

            raise av.error.InvalidDataError(1, "torn")
        if what == "full disk":
            import av

            raise av.error.OSError(28, "No space left on device", "out.mp4")
        if what == "shorten":
            os.ftruncate(int(sys.argv[3]), 0)
        if what == "step":
            begin("a step of more than fifty-six letters, of which some must be left out")
            os._exit(3)
        if isinstance(what, tuple):
            return Call(*what)
        raise BadVideo("torn", stage="decode")


@pytest.fixture(scope="module")
def child():
    child = WorkerProcess("tests.rigface.test_worker_process:Worker", {}, 60)
    with pytest.MonkeyPatch.context() as patch:  # which restores what other tests have set
        for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "RIGFACE_WEBHOOK_SECRET"):
            patch.setenv(name, "secret")
        child.wait_ready()
    yield child
    child.close()


def test_child_sees_no_secrets(child):
    environment = child("environment")
    assert "PATH" in environment
    assert not {"AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "RIGFACE_WEBHOOK_SECRET"} & set(environment)
    assert "secret" not in environment.values()


def test_frames_and_errors_of_this_project_come_back(child):
    frame = child("frame")
    assert (frame.image.shape, frame.index, frame.time_s) == ((2, 2, 3), 3, 0.5)
    with pytest.raises(BadVideo, match="torn"):
        child("error")


def test_interrupt_is_for_the_parent(child):
    os.kill(child._process.pid, signal.SIGINT)
    assert child("frame").index == 3


def test_error_of_another_package_comes_as_its_nearest_known_class(child):
    with pytest.raises(ValueError, match="InvalidDataError"):
        child("unknown error")


def test_error_of_the_system_keeps_its_number_and_file(child):
    with pytest.raises(OSError, match="No space") as error:
        child("full disk")
    assert (error.value.errno, error.value.filename) == (28, "out.mp4")


def test_child_cannot_shorten_the_memory_that_tells_its_step(child):
    with pytest.raises(PermissionError):
        child("shorten")


def test_step_at_death_is_the_last_one_begun_in_this_call(child):
    with pytest.raises(WorkerDied) as died:
        child("step")
    assert died.value.step == "a step of more than fifty-six letters, of which some must"[:56]
    with pytest.raises(WorkerDied) as died:
        child((os._exit, 4))
    assert died.value.step == ""


@pytest.mark.parametrize("function", [os.mkdir, eval, np.save, WorkerProcess])
def test_answer_that_calls_a_function_is_refused_unread(child, tmp_path, function):
    with pytest.raises(WorkerDied, match="is no data"):
        child((function, str(tmp_path / "made")))
    assert not list(tmp_path.iterdir())
