"""Drivers as processes: replaced when they die, ended with the one that started them."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from pipelines.cluster import drivers


def dies_at_first(folder: Path, number: int) -> None:
    """Number 1 is killed, the first time."""
    done = folder / f"{number}"
    if number == 1 and not done.exists():
        done.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    done.write_text("done")


def fails(number: int) -> None:
    raise SystemExit(3)


def test_killed_driver_is_replaced_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(drivers, "WAITS_S", (0.0,))
    said: list[str] = []
    assert drivers.run_drivers(partial(dies_at_first, tmp_path), 2, said.append) == 0
    assert [(tmp_path / name).read_text() for name in "01"] == ["done", "done"]
    assert said == ["driver 2 of 2 was killed by SIGKILL; another takes its share in 0 s"]


def test_driver_that_fails_again_and_again_is_left_to_the_last_run(monkeypatch):
    monkeypatch.setattr(drivers, "WAITS_S", (0.0,))
    said: list[str] = []
    assert drivers.run_drivers(fails, 1, said.append) == 1
    assert said[-1] == "driver 1 of 1 ended with status 3; the last run does what it left"


def waits(ready: str, number: int) -> None:
    try:
        Path(ready).touch()  # the interrupt may come at once
        signal.pause()
    except KeyboardInterrupt:
        Path(ready).unlink()


def test_interrupted_run_interrupts_its_drivers(tmp_path, monkeypatch):
    ready = tmp_path / "ready"

    def interrupt(*_, **__):
        if ready.exists():
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(drivers, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        drivers.run_drivers(partial(waits, str(ready)), 1, print)
    assert not ready.exists()
