"""JSON logging: one object a line, with the same keys in jobs and service.

Path: `LOG.info("unit", extra=log_fields(video=...))` -> `JsonLines` -> standard error -> log collector.

No line holds a picture, a body of a request, an edit's content or a secret: a value that is no number, no short text
and no small table of those is replaced by its size.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

KEYS = {
    "time": "RFC 3339, UTC",
    "level": "`info`, `warning` or `error`",
    "event": "what happened: `start`, `progress`, `unit`, `input`, `end` of `extract`; `step`, `validation`, "
    "`end` of `train`; "
    "`failed` of any command; `request`, `stage`, `edit`, `job` of the service, `message` of anything else",
    "job": "the run: the id it was submitted under, else one made for it; in the service the id of a job of edits",
    "unit": "a unit of work, as the metadata `rigface.units` of the objects in `faces/` names it",
    "video": "an input, as `uri` in the tables",
    "request_id": "a request to the service, as `X-Request-Id` has it; in lines of `stage` also the id of a job",
    "key": "the name of a caller's API key",
    "status": "how it ended: `ok`, `partial`, `error` of a unit, HTTP's of a request, the state of a job",
    "stage": "the stage that stopped it; of a `stage` event, what was done: "
    "`face_worker.edit`, `diffusion_worker.sample`",
    "reason": "why, in one sentence",
    "problem": "the type of a problem document",
    "route": "of a request",
    "method": "of a request",
    "model": "the model of an edit",
    "step": "of a training",
    "frames": "looked at, or left to look at (`start`)",
    "faces": "found, or edited",
    "units": "of work, done or left (`start`)",
    "inputs": "done or left (`start`)",
    "bytes": "written, or sent",
    "seconds": "how long; of a unit or an edit: by step",
    "numbers": "of a training step or a validation: loss and the like",
    "message": "words for people",
    "error": "a traceback",
}
"""Every key of a line, with its meaning."""
MAX_LENGTH = 2000  # characters of a text, or values of a table
LOG = logging.getLogger("rigface.jobs")


def log_fields(**values: Any) -> dict[str, Any]:
    """The `extra` of a log call, without empty and missing values; ValueError for a key that is not in `KEYS`."""
    if unknown := values.keys() - KEYS.keys():
        raise ValueError(f"log keys {sorted(unknown)}: explain them in rigface.telemetry.json_logging.KEYS")
    return {"log_fields": {name: value for name, value in values.items() if value not in (None, "")}}


class JsonLines(logging.Formatter):
    """Log records as JSON lines. A library's record, which has no fields, is the event `message`."""

    def format(self, record: logging.LogRecord) -> str:
        own = getattr(record, "log_fields", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        line |= {"event": "message", "message": record.getMessage()} if own is None else {"event": record.msg, **own}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps({name: _short(value) for name, value in line.items()}, default=str)


def install_json_logging(log: logging.Logger, to: TextIO | None = None) -> None:
    """Write a logger's lines to standard error (or `to`); later calls in a process do nothing."""
    if not log.handlers:
        handler = logging.StreamHandler(to)
        handler.setFormatter(JsonLines())
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict) and len(value) <= MAX_LENGTH:
        return {str(name): _short(inner) for name, inner in value.items()}
    if isinstance(value, str) and len(value) > MAX_LENGTH:
        return value[:MAX_LENGTH] + f" ... ({len(value)} characters)"
    if value is None or isinstance(value, bool | int | str):
        return value
    return f"({type(value).__name__} of {len(value) if hasattr(value, '__len__') else 1})"
