"""Run a job under a budget: until it ends, or until it has spent its hours or its dollars for nodes.

    python -m pipelines.cluster.budget --hours 12 --dollars 300 --price 0.35 -- extract s3://b/videos/ s3://b/faces

Path: `rigface submit` -> Ray's job server -> this module, on the head -> `rigface JOB ...` as a child. It runs on the
cluster, so that a budget holds even if the submitting laptop is closed.

A job whose budget is spent is interrupted as by ctrl-c: it keeps finished work and releases the lock of its output.
The same command continues it. `rigface jobs cancel` does the same: Ray sends SIGINT to this process and to the job's.
A SIGTERM is passed on as SIGINT.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SPENT = 75  # exit status: try again later (sysexits.h: EX_TEMPFAIL)
MAX_INTERVAL_S = 15.0  # between checks of the budget; the first come sooner: 1 s, 2 s, 4 s ...
GRACE_S = 60.0
CountNodes = Callable[[], tuple[int, int]]


@dataclass
class CostMeter:
    """Time and money spent by a job, and their limits."""

    hours: float = 0.0  # limit; 0: none
    dollars: float = 0.0  # limit; 0: none
    price: float = 0.0  # dollars per hour of a node without GPUs
    gpu_price: float = 0.0  # of one with GPUs; 0: as `price`
    spent_hours: float = 0.0
    spent_dollars: float = 0.0

    def add(self, seconds: float, plain: int, gpu: int) -> None:
        """Add the cost of so many nodes without and with GPUs for so many seconds."""
        self.spent_hours += seconds / 3600
        self.spent_dollars += seconds / 3600 * (plain * self.price + gpu * (self.gpu_price or self.price))

    @property
    def is_spent(self) -> bool:
        by_time = bool(self.hours) and self.spent_hours >= self.hours
        return by_time or (bool(self.dollars) and self.spent_dollars >= self.dollars)

    def __str__(self) -> str:
        money = f", ${self.spent_dollars:,.2f}" if self.price or self.gpu_price else ""
        return f"{self.spent_hours:.2f} h{money}"


def run(
    command: Sequence[str], meter: CostMeter, nodes: CountNodes, first_s: float = 1.0, grace_s: float = GRACE_S
) -> int:
    """Run a command under a meter.

    Args:
        nodes: counts the present nodes without and with GPUs.
        first_s: until the first check of the meter.
        grace_s: an interrupted command that runs on for longer is killed.

    Returns:
        The command's exit status; `SPENT` if the budget ended it; 130 if it was cancelled.
    """
    has_price = bool(meter.price or meter.gpu_price)
    plain, gpu = nodes() if has_price else (0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it, and a child would inherit that
    child = subprocess.Popen(command)
    is_cancelled = False

    def stop(number: int, _: object) -> None:
        nonlocal is_cancelled
        is_cancelled = True
        if number == signal.SIGTERM:  # a SIGINT goes to the whole group, by Ray as by a terminal
            child.send_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    last, interval_s = time.monotonic(), first_s
    while (code := _wait(child, interval_s)) is None:
        now, interval_s = time.monotonic(), min(2 * interval_s, MAX_INTERVAL_S)
        plain, gpu = nodes() if has_price else (0, 0)
        meter.add(now - last, plain, gpu)
        last = now
        if is_cancelled:
            code = _end(child, grace_s)
            break
        if meter.is_spent:
            print(f"The budget is spent ({meter}): the job stops and keeps its finished work.", flush=True)
            child.send_signal(signal.SIGINT)
            _end(child, grace_s)
            print("Submit the same command to continue.", flush=True)
            return SPENT
    meter.add(time.monotonic() - last, plain, gpu)
    print(f"Spent: {meter}.", flush=True)
    return 130 if is_cancelled else code


def _wait(child: subprocess.Popen, seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _end(child: subprocess.Popen, grace_s: float) -> int:
    code = _wait(child, grace_s)
    if code is None:
        print(f"The job did not stop within {grace_s:.0f} s and is killed; its output stays consistent.", flush=True)
        child.kill()
        code = child.wait()
    return code


class RayNodes:
    """Counts nodes by Ray's dashboard; if it does not answer, the last count stays."""

    def __init__(self) -> None:
        self._last = (1, 0)

    def __call__(self) -> tuple[int, int]:
        from ray.util.state import list_nodes

        try:
            nodes = list_nodes(
                address=os.environ.get("RAY_ADDRESS", "auto"),
                filters=[("state", "=", "ALIVE")],
                limit=10_000,
                timeout=10,
                raise_on_missing_output=False,
            )
        except Exception as error:  # a busy dashboard must not end a job
            print(f"Ray nodes could not be counted: {type(error).__name__}", file=sys.stderr, flush=True)
            return self._last
        gpu = sum(bool(node.resources_total.get("GPU")) for node in nodes)
        self._last = (len(nodes) - gpu, gpu)
        return self._last


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point: options, `--`, and the arguments of a `rigface` command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    split = arguments.index("--")
    options, job = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster.budget", allow_abbrev=False)
    for name in ("hours", "dollars", "price", "gpu-price"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    meter = CostMeter(**vars(parser.parse_args(options)))
    return run([sys.executable, "-m", "pipelines", *job], meter, RayNodes())


if __name__ == "__main__":
    sys.exit(main())
