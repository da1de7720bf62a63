"""Ray cluster session: the caller's cluster, a joined one, or a private one started on this machine.

A private cluster refuses other users: `rigface/ray_auth.py`.
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

# [2026-11-22 09:46:42,182 E 22258 22258] core_worker.cc:
CORE_LINE = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,]+ [IWE] \d+ \d+\] \S+\.cc:")
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's announced default; avoids a warning on every start
}


@contextlib.contextmanager
def connected(address: str = "", cpus: float = 0, object_store_mb: int = 500) -> Iterator[None]:
    """Be connected to a cluster inside; an existing connection is used and stays.

    Args:
        address: of a cluster to join; empty: RAY_ADDRESS, else a private cluster on this machine.
        cpus: minimum of a private cluster.
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
    with _filtered_stderr():
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",  # even if another cluster runs on this machine
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
def _filtered_stderr() -> Iterator[None]:
    """Filter the lines of Ray's C++ core from standard error inside, except fatal ones.

    It logs every pool of actors as an error (Ray issue 53727, harmless here), and the only setting against that makes
    every process print a line about the setting.
    """
    sys.stderr.flush()
    real = os.dup(2)
    out, into = os.pipe()
    os.dup2(into, 2)
    os.close(into)

    def forward() -> None:
        with open(out, "rb") as lines:
            for line in lines:
                if not CORE_LINE.match(line):
                    os.write(real, line)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)  # closes the pipe, unless a child has it, too
        thread.join(1)


def _quiet() -> None:
    """Send Ray Data's messages to its log file only; `Progress` is the display."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ == "PlainRayHandler":  # errors that end a job are raised and shown once
            handler.setLevel(logging.CRITICAL)
