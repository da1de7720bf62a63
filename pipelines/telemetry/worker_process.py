"""Child process (rigface/worker_process.py) whose metrics are recorded by its parent, which is on the cluster.

Path: a stage -> `WorkerProcess(...)(argument)` -> the call in the child; there `metrics.record` -> here -> Ray.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from pipelines.telemetry import metrics
from rigface import worker_process
from rigface.worker_process import WorkerDied

STORAGE = (
    *("AWS_", "RIGFACE_S3_", "SSL_"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)  # beginnings of names, as `kept`

__all__ = ["WorkerDied", "WorkerProcess", "kept_process"]


class WorkerProcess(worker_process.WorkerProcess):
    """A `rigface.worker_process.WorkerProcess` that records the metrics of its child.

    With `storage` the child gets the environment variables that reading from a storage needs.
    """

    module = "pipelines.telemetry.worker_process"

    def __init__(self, target: str, kwargs: dict[str, Any], silence_s: float, storage: bool = False) -> None:
        super().__init__(target, kwargs, silence_s)
        if storage:
            self.kept = (*self.kept, *STORAGE)

    def on_message(self, message: Any) -> None:
        """Record a metric of the child."""
        metric, value, labels = message
        metrics.record(metric, value, **labels)


def kept_process(target: str, kwargs: dict[str, Any], silence_s: float, storage: bool = False) -> WorkerProcess:
    """A child that this process keeps, for later jobs with the same arguments, which are hashable, and environment."""
    names = (*WorkerProcess.kept, *(STORAGE if storage else ()))
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(names)))
    return _kept(target, tuple(kwargs.items()), silence_s, storage, environment)


@functools.lru_cache(maxsize=4)  # surveys and frames, of local inputs and remote ones; another ends when it is let go
def _kept(
    target: str, kwargs: tuple[tuple[str, Any], ...], silence_s: float, storage: bool, environment: tuple[Any, ...]
) -> WorkerProcess:
    return WorkerProcess(target, dict(kwargs), silence_s, storage)


def _listen(send: Callable[[Any], None]) -> None:
    metrics.record = lambda metric, value=1.0, **labels: send((metric, value, labels))  # type: ignore[assignment]


if __name__ == "__main__":
    worker_process.run(_listen)
