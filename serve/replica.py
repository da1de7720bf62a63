"""Replica side of a call between deployments: trace span, log line, and expected errors returned as values.

An expected error is returned, not raised: Ray Serve would log a traceback for what is a caller's mistake. `serve.remote` raises it again.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from rigface.telemetry.json_logging import log_fields
from serve.problems import EXPECTED, ApiError, problem_of
from serve.telemetry import tracing
from serve.telemetry.tracing import NO_CONTEXT, CallContext

LOG = logging.getLogger("rigface.serve")
Self = TypeVar("Self")
Params = ParamSpec("Params")
Result = TypeVar("Result")
Method = Callable[Concatenate[Self, Params], Awaitable[Result]]


def remote_method(part: str) -> Callable[[Method[Self, Params, Result]], Callable[..., Awaitable[Result | ApiError]]]:
    """Decorate a deployment's coroutine so that it takes a `context` and returns expected errors.

    Args:
        part: prefix of the span's name and the log line's stage, such as `face_worker`.
    """

    def decorate(method: Method[Self, Params, Result]) -> Callable[..., Awaitable[Result | ApiError]]:
        stage = f"{part}.{method.__name__}"

        @functools.wraps(method)
        async def call(self: Self, *args: Any, context: CallContext = NO_CONTEXT) -> Result | ApiError:
            with tracing.span_in(context, stage), stage_log(stage, context.request_id) as log:
                try:
                    return await method(self, *args)  # type: ignore[call-arg]
                except EXPECTED as error:
                    return log.problem(error)

        return call

    return decorate


class StageLog:
    """Fields of one log line."""

    def __init__(self, stage: str, request_id: str, model: str = "") -> None:
        self.fields: dict[str, object] = {
            "request_id": request_id,
            "stage": stage,
            **({"model": model} if model else {}),
        }

    def problem(self, error: Exception) -> ApiError:
        """The error as a value to return; its slug is logged."""
        problem = problem_of(error)
        self.fields["problem"] = problem.slug
        return problem


@contextmanager
def stage_log(stage: str, request_id: str, model: str = "") -> Iterator[StageLog]:
    """Log what a part did for a request or a job, and an unexpected error with its traceback. No line for a caller who left early."""
    began, log = time.monotonic(), StageLog(stage, request_id, model)
    try:
        yield log
    except Exception:
        LOG.exception("unexpected_error", extra=log_fields(**log.fields))
        raise
    if request_id:
        LOG.info("stage", extra=log_fields(**{"seconds": time.monotonic() - began, **log.fields}))
