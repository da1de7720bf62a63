"""A job that tells machines what it does: `--log-format json`.

Path: the driver of `extract` -> `Lines`, in the place of the live display -> one JSON line per unit, input and stretch of work.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from rigface.telemetry import json_logging
from rigface.telemetry.json_logging import LOG, log_fields

if TYPE_CHECKING:
    pass


@cache
def job_id() -> str:
    """The name of this run: what it was submitted to the cluster under, else one made here."""
    told = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    return told.get("job_submission_id") or f"run-{secrets.token_hex(6)}"


def failed(error: BaseException) -> None:
    """A command ended with an error of ours."""
    json_logging.install_json_logging(LOG)
    LOG.error("failed", extra=log_fields(job=job_id(), reason=f"{type(error).__name__}: {error}"))


def training() -> Callable[[str, int, dict[str, Any]], None]:
    """Tells of the steps and validations of a training."""
    json_logging.install_json_logging(LOG)
    return lambda event, step, numbers: LOG.info(event, extra=log_fields(job=job_id(), step=step, numbers=numbers))
