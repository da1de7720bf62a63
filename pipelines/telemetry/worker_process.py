"""A child process (`rigface/worker_process.py`) whose numbers its parent tells, who is on the cluster.

Path: a stage -> `WorkerProcess(...)(argument)` -> the call in the child; there `measures.tell` -> here -> Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.telemetry import metrics
from rigface import worker_process
from rigface.worker_process import WorkerDied

__all__ = ["WorkerDied", "WorkerProcess"]


class WorkerProcess(worker_process.WorkerProcess):
    """As `rigface.worker_process.WorkerProcess`."""

    module = "pipelines.telemetry.worker_process"

    def hear(self, told: Any) -> None:
        """A number that the child counted."""
        measure, number, labels = told
        metrics.tell(measure, number, **labels)


def _listen(say: Callable[[Any], None]) -> None:
    metrics.tell = lambda measure, value=1.0, **labels: say((measure, value, labels))  # type: ignore[assignment]


if __name__ == "__main__":
    worker_process.run(_listen)
