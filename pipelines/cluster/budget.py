"""Run a job until it ends, or until it has spent what it may: hours of time, or dollars for nodes.

    python -m pipelines.cluster.budget --hours 12 --dollars 300 --price 0.35 -- extract s3://bucket/videos/ s3://bucket/faces

Path: `rigface submit` -> Ray's job server -> here, on the head -> `rigface JOB ...` as a child. It runs where the job runs, so
that a budget holds when the laptop it was sent from is closed.

A job whose budget is spent is interrupted as by ctrl-c: it keeps what is finished and lets go of its output. The same line goes
on. `rigface jobs cancel` does the same: Ray sends SIGINT to this process and to the job's. A SIGTERM is handed on as SIGINT.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SPENT = 75  # exit status: come again (sysexits.h: EX_TEMPFAIL)
LOOK_S = 15.0  # the first looks come sooner: 1 s, 2 s, 4 s ...
GRACE_S = 60.0
Nodes = Callable[[], tuple[int, int]]


@dataclass
class CostMeter:
    """What has been spent.

    Args:
        hours, dollars: what may be; 0: as much as it takes.
        price, gpu_price: dollars per hour of a node without and with GPUs.
    """

    hours: float = 0.0
    dollars: float = 0.0
    price: float = 0.0
    gpu_price: float = 0.0
    spent_hours: float = 0.0
    spent_dollars: float = 0.0

    def add(self, seconds: float, plain: int, gpu: int) -> None:
        """So many nodes were there for so long."""
        self.spent_hours += seconds / 3600
        self.spent_dollars += seconds / 3600 * (plain * self.price + gpu * (self.gpu_price or self.price))

    @property
    def is_spent(self) -> bool:
        by_time = bool(self.hours) and self.spent_hours >= self.hours
        return by_time or (bool(self.dollars) and self.spent_dollars >= self.dollars)

    def __str__(self) -> str:
        money = f", ${self.spent_dollars:,.2f}" if self.price or self.gpu_price else ""
        return f"{self.spent_hours:.2f} h{money}"


def run(command: Sequence[str], meter: CostMeter, nodes: Nodes, first_s: float = 1.0, grace_s: float = GRACE_S) -> int:
    """Run a command under a meter.

    Args:
        nodes: how many nodes without and with GPUs there are now.
        first_s: until the first look at the meter.
        grace_s: a command that was interrupted and goes on for longer is killed.

    Returns:
        The command's exit status; `SPENT` where the budget ended it; 130 where somebody stopped it.
    """
    counts = bool(meter.price or meter.gpu_price)
    plain, gpu = nodes() if counts else (0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it, and a child would inherit that
    child = subprocess.Popen(command)
    asked = False

    def stop(number: int, _: object) -> None:
        nonlocal asked
        asked = True
        if number == signal.SIGTERM:  # a SIGINT goes to the whole group, by Ray as by a terminal
            child.send_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    last, look_s = time.monotonic(), first_s
    while (code := _wait(child, look_s)) is None:
        now, look_s = time.monotonic(), min(2 * look_s, LOOK_S)
        plain, gpu = nodes() if counts else (0, 0)
        meter.add(now - last, plain, gpu)
        last = now
        if asked:
            code = _end(child, grace_s)
            break
        if meter.is_spent:
            print(f"The budget is spent ({meter}): the job stops, and keeps what is finished.", flush=True)
            child.send_signal(signal.SIGINT)
            _end(child, grace_s)
            print("Submit the same line to go on.", flush=True)
            return SPENT
    meter.add(time.monotonic() - last, plain, gpu)
    print(f"Spent: {meter}.", flush=True)
    return 130 if asked else code


def _wait(child: subprocess.Popen, seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _end(child: subprocess.Popen, grace_s: float) -> int:
    code = _wait(child, grace_s)
    if code is None:
        print(f"It did not stop within {grace_s:.0f} s and is killed; its output is whole all the same.", flush=True)
        child.kill()
        code = child.wait()
    return code


class RayNodes:
    """The nodes that Ray's dashboard sees. Where it does not answer, those it saw last."""

    def __init__(self) -> None:
        self._last = (1, 0)

    def __call__(self) -> tuple[int, int]:
        from ray.util.state import list_nodes

        try:
            found = list_nodes(
                address=os.environ.get("RAY_ADDRESS", "auto"),
                filters=[("state", "=", "ALIVE")],
                limit=10_000,
                timeout=10,
                raise_on_missing_output=False,
            )
        except Exception as error:  # a busy dashboard must not end a job
            print(f"nodes could not be counted: {type(error).__name__}", file=sys.stderr, flush=True)
            return self._last
        gpu = sum(bool(node.resources_total.get("GPU")) for node in found)
        self._last = (len(found) - gpu, gpu)
        return self._last


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point: options, `--`, and the words of a `rigface` command."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, job = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster.budget", allow_abbrev=False)
    for name in ("hours", "dollars", "price", "gpu-price"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    meter = CostMeter(**vars(parser.parse_args(own)))
    return run([sys.executable, "-m", "pipelines", *job], meter, RayNodes())


if __name__ == "__main__":
    sys.exit(main())
