"""Progress of an extract job as one JSON line per event."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipelines.extract.progress import Progress
from pipelines.telemetry.log_events import job_id
from rigface.telemetry import json_logging
from rigface.telemetry.json_logging import LOG, log_fields

if TYPE_CHECKING:
    from pipelines.extract.summary import Summary


class JsonProgress(Progress):
    """Says what happens as events instead of showing it."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        json_logging.install_json_logging(LOG)

    def say(self, words: str) -> None:
        LOG.info("say", extra=log_fields(job=job_id(), message=words))

    def expect(self, inputs: int, units: int, frames: int) -> None:
        super().expect(inputs, units, frames)
        LOG.info("start", extra=log_fields(job=job_id(), inputs=inputs, units=units, frames=frames))

    def unit(self, record: dict[str, Any], expected: int) -> None:
        super().unit(record, expected)
        level = 20 if record["status"] == "ok" else 30
        said = {name: record[name] for name in ("status", "stage", "reason", "frames", "faces", "bytes", "seconds")}
        LOG.log(level, "unit", extra=log_fields(job=job_id(), unit=record["unit_id"], video=record["uri"], **said))

    def closed(self, row: dict[str, Any]) -> None:
        super().closed(row)
        said = {name: row[name] for name in ("status", "stage", "reason", "frames", "faces")}
        level = 20 if row["status"] in ("ok", "no_face") else 30
        LOG.log(level, "input", extra=log_fields(job=job_id(), video=row["uri"], **said))

    def _line(self) -> None:
        return


def end(summary: Summary) -> None:
    """An `extract` is over."""
    done = {name: summary.done[name] for name in ("units", "frames", "faces", "bytes")}
    LOG.info(
        "end",
        extra=log_fields(
            job=job_id(), inputs=summary.inputs, seconds=summary.wall_s, message=summary.identities, **done
        ),
    )
