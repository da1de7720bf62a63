"""Progress of an extract job as one JSON line per event."""

import io
import logging

from rich.console import Console

from pipelines.extract.progress import Progress
from pipelines.extract.summary import InputRow, Summary
from pipelines.extract.unit import Record
from pipelines.telemetry.log_events import job_id
from rigface.telemetry import json_logging
from rigface.telemetry.json_logging import LOG, log_fields


class JsonProgress(Progress):
    """Logs events instead of displaying progress."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        json_logging.install_json_logging(LOG)

    def message(self, text: str) -> None:
        LOG.info("progress", extra=log_fields(job=job_id(), message=text))

    def expect(self, inputs: int, units: int, frames: int) -> None:
        super().expect(inputs, units, frames)
        LOG.info("start", extra=log_fields(job=job_id(), inputs=inputs, units=units, frames=frames))

    def unit_done(self, record: Record, expected: int) -> None:
        super().unit_done(record, expected)
        _log("unit", record, "bytes", "seconds", unit=record.unit_id)

    def input_done(self, row: InputRow) -> None:
        super().input_done(row)
        _log("input", row)

    def _line(self) -> None:
        return


def _log(event: str, outcome: Record | InputRow, *more: str, **fields: str) -> None:
    level = logging.INFO if outcome.status in ("ok", "no_face") else logging.WARNING
    values = {name: getattr(outcome, name) for name in ("status", "stage", "reason", "frames", "faces", *more)}
    LOG.log(level, event, extra=log_fields(job=job_id(), video=outcome.uri, **fields, **values))


def end(summary: Summary) -> None:
    done = {name: summary.done[name] for name in ("units", "frames", "faces", "bytes")}
    fields = log_fields(job=job_id(), inputs=summary.inputs, seconds=summary.wall_s, message=summary.identities, **done)
    LOG.info("end", extra=fields)
