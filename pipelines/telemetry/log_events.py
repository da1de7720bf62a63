"""Log events of the jobs as JSON lines: `--log-format json`.

Path: JsonProgress (extract), the metric log (train), a failed command -> one JSON line per event on standard error.
"""

import json
import os
import secrets
from collections.abc import Callable
from functools import cache
from typing import Any

from rigface.telemetry import json_logging
from rigface.telemetry.json_logging import LOG, log_fields


@cache
def job_id() -> str:
    """The id of this run: that of its submission to the cluster, else a random one."""
    submission = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    return submission.get("job_submission_id") or f"run-{secrets.token_hex(6)}"


def failed(error: BaseException) -> None:
    """Log the error that ended a command."""
    json_logging.install_json_logging(LOG)
    LOG.error("failed", extra=log_fields(job=job_id(), reason=f"{type(error).__name__}: {error}"))


def training() -> Callable[[str, int, dict[str, Any]], None]:
    """A function that logs the steps and validations of a training."""
    json_logging.install_json_logging(LOG)
    return lambda event, step, numbers: LOG.info(event, extra=log_fields(job=job_id(), step=step, numbers=numbers))
