"""Run the service on this machine: start a Ray cluster and the application, and stop both at the end.

Path: `python -m serve`, tests, the load benchmark -> `serving`. A cluster that is connected already is used and kept.
"""

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from rigface.errors import PlanError
from rigface.extras import extra
from rigface.host_environment import repair_environment
from rigface.ray_auth import authenticate
from serve.security.loopback import LOOPBACK

READY_S = 180.0
QUIET_SERVE = {"log_level": "WARNING"}  # of Serve itself; the service logs each request
RAY_SETTINGS = {  # unless the environment has them
    # By default Serve kills its proxy if it does not start within three times 5 s, which a busy machine may need.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
    # By default Serve looks at its replicas, and adds up their metrics, ten times a second, also while they idle.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    # By default workers run at nice 15; these answer interactive requests.
    "RAY_worker_niceness": "0",
    # Stopping Serve kills its controller, and each request to it that was under way would print these words.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "infinite retries remaining",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", port: int = 8000, *, quiet: bool = False, **args: Any) -> Iterator[str]:
    """Run the service inside; its address, such as "http://127.0.0.1:8000". `args` are those of `ServiceConfig`.

    ValueError if callers elsewhere could reach it without a key; MissingAsset, FileNotFoundError: see
    `ServiceConfig.check`; PlanError if a part of the service cannot be started. `quiet` keeps the log lines of the
    deployments to their files.
    """
    if not args.get("keys") and host not in LOOPBACK:
        raise ValueError(f"--host {host} is not loopback: name a file of API keys with --keys")
    repair_environment()
    from serve.config import ServiceConfig

    config = ServiceConfig(**args)
    config.check()
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    loaded = sys.modules.get("ray")
    if loaded is None or not loaded.is_initialized():
        authenticate(joining=False)  # Ray's ports are on the machine's address even if the service is on loopback
    import ray
    from ray import serve

    from serve.app import build

    own = not ray.is_initialized()
    if own:
        ray.init(
            address="local",  # even if another cluster runs on this machine
            num_cpus=max(4, os.cpu_count() or 1),  # logical: the deployments share the real ones
            object_store_memory=300 * 2**20,
            include_dashboard=False,
            log_to_driver=not quiet,
            logging_level=logging.ERROR,
        )
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config=QUIET_SERVE)
        try:
            serve.run(build(config), name="rigface", route_prefix="/", logging_config=QUIET_SERVE)
        except RuntimeError as error:  # a replica cannot be made
            reason = (str(error) or repr(error)).splitlines()[0]
            raise PlanError(f"the service did not start ({reason}); the reason is above, and in Ray's logs") from error
        url = address(host, port)
        _wait(url)
        try:
            yield url
        finally:
            drain()
    finally:
        serve.shutdown()
        if own:
            ray.shutdown()


def drain(limit_s: float = 150.0) -> bool:
    """Drain all gateways: refuse new requests and finish the running ones; True if all of them ended.

    Ray Serve lets each replica finish its own requests, but stops an idle face worker at once, and an edit that is with
    a diffusion worker then cannot be finished. So the gateways are drained first.
    """
    from ray import serve

    try:
        return all(serve.get_app_handle("rigface").broadcast("drain").results(timeout_s=limit_s))
    except Exception as error:  # a stopped or broken service has nothing to finish
        logging.getLogger("rigface.serve").warning("not drained: %s", error)
        return False


def address(host: str, port: int) -> str:
    """The URL of a host and port, such as "http://127.0.0.1:8000" or "http://[::1]:8000"."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def free_port(host: str, port: int) -> int:
    """The port if it is free, or any free port for 0; ValueError if it is in use."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            reason = f"cannot listen on {host} ({error.strerror}); choose another port"
            raise ValueError(f"--port {port}: {reason}") from None
        return int(trial.getsockname()[1])


def _wait(url: str) -> None:
    with extra("serve"):
        import httpx

    end = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200:
                return
        if time.monotonic() > end:
            raise TimeoutError(f"{url} was not ready within {READY_S:g} s")
        time.sleep(0.2)
