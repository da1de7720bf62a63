"""Be on a Ray cluster: the caller's, one that is joined, or one of our own on this machine.

A cluster of our own lets in nobody else: `rigface/ray_auth.py`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
import threading
from collections.abc import Iterator

from rigface.ray_auth import authenticate

CORE = re.compile(
    rb"\[\d{4}-\d\d-\d\d [\d:,]+ [IWE] \d+ \d+\] \S+\.cc:"
)  # [2026-11-22 09:46:42,182 E 22258 22258] core_worker.cc:
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's announced default; says so on every start otherwise
}


@contextlib.contextmanager
def connected(address: str = "", cpus: float = 0, object_store_mb: int = 500) -> Iterator[None]:
    """Have a cluster while inside; one that was there before stays.

    Args:
        address: of a cluster to join; empty: RAY_ADDRESS, else a cluster of our own on this machine.
        cpus: that a cluster of our own offers at least.
        object_store_mb: memory of its object store, in MiB.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS", "")
    authenticate(joining=bool(address))
    import ray

    if ray.is_initialized():
        _quiet()
        yield
        return
    with _hushed():
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",  # even where somebody else's cluster runs on this machine
                num_cpus=max(math.ceil(cpus), os.cpu_count() or 1),
                object_store_memory=object_store_mb * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        _quiet()
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep lines of Ray's C++ core off standard error while inside, fatal ones excepted.

    It announces every pool of actors as an error (Ray issue 53727, harmless here), and the one switch it has for that makes
    every process say that the switch was used.
    """
    sys.stderr.flush()
    real = os.dup(2)
    out, into = os.pipe()
    os.dup2(into, 2)
    os.close(into)

    def forward() -> None:
        with open(out, "rb") as lines:
            for line in lines:
                if not CORE.match(line):
                    os.write(real, line)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)  # closes the last way into the pipe, unless a child has it, too
        thread.join(1)


def _quiet() -> None:
    """Ray Data's chatter goes to its log file only; our own display says what is going on."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ == "PlainRayHandler":  # what ends a job is raised, and shown once by who raised it
            handler.setLevel(logging.CRITICAL)
