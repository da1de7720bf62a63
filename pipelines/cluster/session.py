"""Ray cluster session: the caller's cluster, a joined one, or a private one started on this machine.

A private cluster refuses other users: `rigface/ray_auth.py`.
"""

import contextlib
import logging
import math
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator

from pipelines.cluster.ray_errors import translated
from rigface.errors import NoCluster
from rigface.host_environment import repair_environment
from rigface.ray_auth import authenticate

CONNECT_S = 5.0
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

    Without an address it is that of RAY_ADDRESS, else a private cluster on this machine, with at least `cpus` CPUs and
    an object store of so many MiB.

    NoCluster if no cluster answers at the address; a RigFaceError for what caused an error of Ray inside
    (`ray_errors.py`).
    """
    repair_environment()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    named = f"--address {address}" if address else f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}"
    address = address or os.environ.get("RAY_ADDRESS", "")
    authenticate(joining=bool(address))
    import ray

    if ray.is_initialized():
        _quiet()
        with translated():
            yield
        return
    with _filtered_stderr():
        if address:
            _check_answer(address, named)
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError) as e:
                raise NoCluster(f"{named}: {str(e).splitlines()[0]}") from e
        else:
            try:
                ray.init(
                    address="local",  # even if another cluster runs on this machine
                    num_cpus=max(math.ceil(cpus), os.cpu_count() or 1),
                    object_store_memory=object_store_mb * 2**20,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except (RuntimeError, ValueError) as e:
                raise NoCluster(f"Ray cannot be started on this machine: {(str(e) or repr(e)).splitlines()[0]}") from e
        _quiet()
        try:
            with translated():
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


def _check_answer(address: str, named: str) -> None:
    """Connect to the port of an address, or NoCluster; Ray itself would try for a quarter of an hour."""
    if address.startswith("http"):
        raise NoCluster(f"{named} is a dashboard: give host:port of the head (10.0.0.1:6379), or use `rigface submit`")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # `auto`
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as e:
        hint = "; or unset RAY_ADDRESS to work on this machine" if named.startswith("RAY") else ""
        raise NoCluster(
            f"{named}: no Ray cluster answers there ({e}). Start it, or give another address{hint}."
        ) from None


def _quiet() -> None:
    """Send Ray Data's messages to its log file only; `Progress` is the display."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ == "PlainRayHandler":  # errors that end a job are raised and shown once
            handler.setLevel(logging.CRITICAL)
