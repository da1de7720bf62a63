"""Replica side of a call between deployments: trace span, log line, and expected errors returned as values.

An expected error is returned, not raised: Ray Serve would log a traceback for what is a caller's mistake.
`serve.remote` raises it again.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rigface.telemetry.json_logging import log_fields
from serve.problems import EXPECTED, ApiError, problem_of
from serve.telemetry import tracing
from serve.telemetry.tracing import NO_CONTEXT, CallContext

LOG = logging.getLogger("rigface.serve")
Result = TypeVar("Result")


def delegate(
    part: str, method: Callable[..., Awaitable[Result]]
) -> Callable[..., Coroutine[Any, Any, Result | ApiError]]:
    """A deployment's method that awaits the same method of its `_worker`.

    It takes a `context` and returns expected errors.

    Args:
        part: prefix of the span's name and the log line's stage, such as `face_worker`.
        method: of a protocol in `serve.protocols`.
    """
    name, stage = method.__name__, f"{part}.{method.__name__}"

    @functools.wraps(method)
    async def call(self: Any, *args: object, context: CallContext = NO_CONTEXT, **kwargs: object) -> Result | ApiError:
        with tracing.span_in(context, stage), stage_log(stage, context.request_id) as log:
            try:
                return await getattr(self._worker, name)(*args, **kwargs)
            except EXPECTED as error:
                return log.problem(error)

    return call


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
    """Log what a part did for a request or a job, and an unexpected error with its traceback.

    No line for a caller who left early.
    """
    began, log = time.monotonic(), StageLog(stage, request_id, model)
    try:
        yield log
    except Exception:
        LOG.exception("unexpected_error", extra=log_fields(**log.fields))
        raise
    if request_id:
        LOG.info("stage", extra=log_fields(**{"seconds": time.monotonic() - began, **log.fields}))
