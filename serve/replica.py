"""Replica side of a call between deployments: trace span, log line, and expected errors returned as values.

An expected error is returned, not raised: Ray Serve would log a traceback for what is a caller's mistake.
`serve.remote` raises it again.
"""

import functools
import inspect
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rigface.host_environment import spare_imports
from rigface.telemetry.json_logging import install_json_logging, log_fields
from serve.problems import EXPECTED, ApiError, problem_of
from serve.telemetry import tracing
from serve.telemetry.tracing import NO_CONTEXT, CallContext

LOG = logging.getLogger("rigface.serve")
Deployment = TypeVar("Deployment")


def start_replica(traces: str, part: str) -> None:
    """Make this process one of a part of the application: it logs JSON lines to standard error, and exports spans by
    `traces`. Called before its imports, of which it spares the garbage collector.
    """
    spare_imports()
    install_json_logging(LOG)
    tracing.start(traces, part)


def delegate(part: str, service: type) -> Callable[[type[Deployment]], type[Deployment]]:
    """Give a deployment the coroutines of a protocol: each awaits that of `_worker` and returns expected errors.

    Spans and log lines are called `<part>.<method>`.
    """

    def decorated(deployment: type[Deployment]) -> type[Deployment]:
        for name, method in inspect.getmembers(service, inspect.iscoroutinefunction):
            setattr(deployment, name, functools.wraps(method)(_delegated(name, f"{part}.{name}")))
        return deployment

    return decorated


def _delegated(name: str, stage: str) -> Callable[..., Coroutine[Any, Any, object]]:
    async def call(self: Any, *args: object, context: CallContext = NO_CONTEXT, **kwargs: object) -> object:
        with tracing.span_in(context, stage), stage_log(stage, context.request_id) as log:
            try:
                return await getattr(self._worker, name)(*args, **kwargs)
            except EXPECTED as error:
                return log.problem(error)

    return call


class StageLog:
    """Fields of one log line."""

    def __init__(self, stage: str, request_id: str, model: str = "") -> None:
        self.fields: dict[str, object] = {"request_id": request_id, "stage": stage}
        if model:
            self.fields["model"] = model

    def problem(self, error: Exception) -> ApiError:
        """The error as a value to return; its slug is logged."""
        problem = problem_of(error)
        self.fields["problem"] = problem.slug
        return problem


@contextmanager
def stage_log(stage: str, request_id: str, model: str = "") -> Iterator[StageLog]:
    """Log a stage of a request or a job, or an unexpected error with its traceback; nothing if the caller left."""
    began, log = time.monotonic(), StageLog(stage, request_id, model)
    try:
        yield log
    except Exception:
        LOG.exception("unexpected_error", extra=log_fields(**log.fields))
        raise
    if request_id:
        LOG.info("stage", extra=log_fields(**{"seconds": time.monotonic() - began, **log.fields}))
