"""Worker process with metrics: a crash or a hang costs one call."""

import os
import signal
import time

import pytest

from pipelines.telemetry import metrics
from pipelines.telemetry.worker_process import WorkerDied, WorkerProcess, kept_process
from rigface.errors import BadVideo, MissingAsset


class Worker:
    """Behaves as its argument says, in the child."""

    def __init__(self, start: str = "") -> None:
        if start == "missing":
            raise MissingAsset("no weights here")
        if start == "crash":
            os._exit(7)

    def __call__(self, what, begin):
        begin("decode")
        if what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "hang":
            time.sleep(60)
        if what == "slow":
            for _ in range(8):
                time.sleep(0.1)
                begin("decode")
        if what == "count":
            metrics.record(metrics.CRASHES, 3, step="decode")
        if what == "bad":
            raise BadVideo("torn", stage="decode")
        if what == "bug":
            raise KeyError("typo")
        return os.getpid(), what


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    children = []

    def make(silence_s=0.5, **kwargs):
        children.append(WorkerProcess("test_worker_process:Worker", kwargs, silence_s))
        return children[-1]

    yield make
    for child in children:
        child.close()


def test_crash_costs_one_call(make):
    child = make()
    first, _ = child("fine")
    with pytest.raises(WorkerDied) as died:
        child("crash")
    assert (died.value.how, died.value.step) == ("SIGSEGV", "decode")
    second, answer = child("again")
    assert answer == "again"
    assert len({first, second, os.getpid()}) == 3


def test_silence_is_a_hang_and_slow_work_is_not(make):
    child = make(silence_s=0.5)
    assert child("slow")[1] == "slow"  # 0.8 s, a report every 0.1 s
    with pytest.raises(WorkerDied, match=r"no progress for 0.5 s during decode"):
        child("hang")


def test_parent_records_the_metrics_of_the_child(make, monkeypatch):
    recorded = []
    monkeypatch.setattr(metrics, "record", lambda metric, value, **labels: recorded.append((metric, value, labels)))
    assert make()("count")[1] == "count"
    assert recorded == [(metrics.CRASHES, 3, {"step": "decode"})]


def test_exception_of_the_child_is_raised_in_the_parent(make):
    child = make()
    with pytest.raises(BadVideo, match="torn") as bad:
        child("bad")
    assert bad.value.stage == "decode"
    assert "in the child process" in bad.value.__notes__[0]
    with pytest.raises(KeyError, match="typo"):
        child("bug")
    assert child("fine")[1] == "fine"


def test_child_that_cannot_start_raises_its_error(make):
    child = make(start="missing")
    for _ in range(2):
        with pytest.raises(MissingAsset, match="no weights"):
            child.wait_ready()
    with pytest.raises(RuntimeError, match="exit code 7"):
        make(start="crash").wait_ready()


def test_child_that_died_between_calls_raises_and_restarts(make):
    child = make()
    pid, _ = child("fine")
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        child("fine")
    assert child("fine")[0] != pid


def test_answer_to_an_interrupted_call_is_not_that_to_the_next(make, monkeypatch):
    child = make(silence_s=60)
    child.wait_ready()

    def interrupted(timeout):
        raise KeyboardInterrupt

    monkeypatch.setattr(child._pipe, "poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child("first")
    assert child("second")[1] == "second"


def test_child_is_kept_for_the_same_arguments_and_environment(make, monkeypatch):
    def kept(**kwargs):
        return kept_process("test_worker_process:Worker", kwargs, 60)

    child = kept()
    assert kept() is child is not kept(start="crash")
    monkeypatch.setenv("RIGFACE_ASSETS", "elsewhere")
    assert kept() is not child
    monkeypatch.undo()
    assert kept() is child
