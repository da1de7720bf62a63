"""Several drivers of one job, each a process: watched, started again, and ended together.

Path: `rigface extract --jobs 4` -> `run_drivers` -> a process for each share of the work.

A driver that dies is started again, as another process on the same share. What it cannot finish is left to the caller.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

# Before each further start of one driver: a lease of a machine that is gone ends after a minute.
WAITS_S = (1.0, 10.0, 70.0)
GRACE_S = 60.0  # of an interrupted driver


def run_drivers(work: Callable[[int], None], count: int, say: Callable[[str], None]) -> int:
    """Run `work(0)` to `work(count - 1)`, each in a process; the number of those that did not end well in the end.

    `work` must pickle. The processes end with this one.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[int, SpawnProcess] = {}
    due = dict.fromkeys(range(count), 0.0)  # number -> time of its next start
    starts = [0] * count
    lost = 0
    try:
        while running or due:
            for number in [n for n, at in due.items() if at <= time.monotonic()]:
                del due[number]
                running[number] = context.Process(target=_drive, args=(work, number))
                running[number].start()
                starts[number] += 1
            wait([process.sentinel for process in running.values()], timeout=0.5)
            for number in [n for n, process in running.items() if not process.is_alive()]:
                code = running.pop(number).exitcode
                if code and starts[number] <= len(WAITS_S):
                    wait_s = WAITS_S[starts[number] - 1]
                    due[number] = time.monotonic() + wait_s
                    say(f"driver {number + 1} of {count} {_end(code)}; another takes its share in {wait_s:.0f} s")
                elif code:
                    lost += 1
                    say(f"driver {number + 1} of {count} {_end(code)}; the last run does what it left")
    finally:
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGINT)
        end = time.monotonic() + GRACE_S
        for process in running.values():
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
    return lost


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _drive(work: Callable[[int], None], number: int) -> None:
    """Work in a driver's process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(number)


def _end_with_parent() -> None:
    """Interrupt this process once the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
