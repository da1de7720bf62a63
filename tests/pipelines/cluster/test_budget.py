"""Jobs under a budget: they end, are interrupted or are cancelled, and clean up in each case."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cluster.budget import SPENT, CostMeter, main, run

TIDY = """
import pathlib, sys, time
try:
    pathlib.Path(sys.argv[1]).touch(); print("began", flush=True); time.sleep(60)
except KeyboardInterrupt:
    print("tidied"); sys.exit(130)
"""
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch(); time.sleep(60)
"""


class SpentAfterStart(CostMeter):
    """Is not spent before the job has begun: Python may take longer to start than the budget allows."""

    began: Path

    @property
    def is_spent(self) -> bool:
        return self.began.exists() and super().is_spent


def spent_after_start(path: Path, **limits: float) -> CostMeter:
    meter = SpentAfterStart(**limits)
    meter.began = path
    return meter


@pytest.fixture(autouse=True)
def handlers():
    """`run` answers to signals, as the program it is the whole of; here it is not."""
    before = [(n, signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def none():
    return 0, 0


def child(code, *words):
    return [sys.executable, "-c", code, *map(str, words)]


def test_dollars_are_node_hours_by_kind():
    meter = CostMeter(dollars=10, price=0.5, gpu_price=2)
    meter.add(3600, plain=4, gpu=1)
    assert (meter.spent_hours, meter.spent_dollars, meter.is_spent) == (1.0, 4.0, False)
    meter.add(5400, plain=4, gpu=1)
    assert (meter.spent_dollars, meter.is_spent) == (10.0, True)
    assert str(meter) == "2.50 h, $10.00"


def test_gpu_nodes_cost_the_plain_price_by_default():
    meter = CostMeter(price=1)
    meter.add(3600, plain=1, gpu=1)
    assert meter.spent_dollars == 2


@pytest.mark.parametrize("code", [0, 3])
def test_exit_status_of_a_finished_job_is_kept(code):
    assert run(child(f"raise SystemExit({code})"), CostMeter(hours=1), none) == code


def test_spent_hours_interrupt_the_job(capfd, tmp_path):
    began = tmp_path / "began"
    assert run(child(TIDY, began), spent_after_start(began, hours=0.2 / 3600), none, first_s=0.1) == SPENT
    out = capfd.readouterr().out
    assert "tidied" in out
    assert "The budget is spent" in out
    assert "Submit the same command" in out


def test_job_is_interrupted_even_if_sigint_was_ignored(capfd, tmp_path):
    """A shell ignores it in commands started with `&`; a child inherits that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        began = tmp_path / "began"
        assert (
            run(child(TIDY, began), spent_after_start(began, hours=0.2 / 3600), none, first_s=0.1, grace_s=5) == SPENT
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert "tidied" in capfd.readouterr().out


def test_spent_dollars_interrupt_the_job(capfd, tmp_path):
    began = tmp_path / "began"
    meter = spent_after_start(began, dollars=1_000, price=3_600, gpu_price=36_000)  # a dollar a second, or ten
    assert run(child(TIDY, began), meter, lambda: (1, 100 * began.exists()), first_s=0.1) == SPENT
    assert "tidied" in capfd.readouterr().out
    assert meter.spent_dollars > 2 * 3600 * meter.spent_hours, "the added nodes cost more than the first"


def test_job_that_ignores_the_interrupt_is_killed(capfd, tmp_path):
    began = tmp_path / "began"
    assert (
        run(child(STUBBORN, began), spent_after_start(began, hours=0.1 / 3600), none, first_s=0.1, grace_s=0.3) == SPENT
    )
    assert "is killed" in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_cancelling_reaches_the_job_once_even_if_sigint_was_blocked(number, tmp_path):
    """Ray blocks SIGINT in what it starts. SIGTERM goes to this process only, SIGINT to the whole group."""
    command = child(TIDY, tmp_path / "began")
    imports = "import sys; from pipelines.cluster.budget import *; "
    code = f"{imports}sys.exit(run({command!r}, CostMeter(), lambda: (0, 0), 0.2))"
    process = subprocess.Popen(
        child(code),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}),
    )
    assert process.stdout.readline() == "began\n"
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "tidied" in out


def test_main_runs_a_rigface_command(capfd):
    assert main(["--hours", "1", "--", "status", "/no/such/dataset"]) == 1
    assert "not a RigFace dataset" in capfd.readouterr().err
