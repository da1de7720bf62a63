"""Progress display of an extract job: a live line while it runs, two tables at its end; or one JSON line per event.

All numbers come from the records of finished units, none from Ray. On a terminal the line is live; in a log it is
printed every few seconds.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.extract.summary import InputRow, StatusCount, Summary
from pipelines.extract.unit import Record
from pipelines.telemetry import metrics
from pipelines.telemetry.log_events import job_id
from rigface.telemetry import json_logging
from rigface.telemetry.json_logging import LOG, log_fields

LOG_INTERVAL_S = 5.0
RECORD_S = 1.0  # between two values of a metric
MIN_ESTIMATE_S = 3.0  # no remaining time is estimated before


class Progress:
    """The display of one run; on standard error by default, so that standard output stays for results.

    With a label, which begins each line, it is one of several displays and never live.
    """

    def __init__(self, console: Console | None = None, label: str = "") -> None:
        # A handle of its own, because standard error is filtered while Ray runs (cluster/session.py).
        self.console = console or Console(file=os.fdopen(os.dup(2), "w", buffering=1))
        self._label = label
        self._live: Live | None = None
        self._began = self._first = self._printed = self._recorded = time.monotonic()
        self._message = ""
        self.total = Counter[str]()
        self.done = Counter[str]()

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self._label:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._record_left()
        if self._live is not None:
            self._live.stop()

    def message(self, text: str) -> None:
        """Show the current activity."""
        self._message = text
        if self._live is None:
            self._print(text)

    def _print(self, text: str) -> None:
        line = f"{self._label}[{_clock(time.monotonic() - self._began)}] {text}"
        self.console.print(line, markup=False, highlight=False)

    def expect(self, inputs: int, units: int, frames: int) -> None:
        """Add to the work to be done."""
        self.total.update(inputs=inputs, units=units, frames=frames)
        self._record_left()
        self._first = self._printed = time.monotonic()

    def unit_done(self, record: Record, expected: int) -> None:
        """Count a finished unit, which was expected to have so many frames."""
        if not self.done["units"]:
            self._first = time.monotonic() - sum(record.seconds.values())  # when the actors were ready
        done = self.done
        done["units"] += 1
        done["expected"] += expected
        done["frames"] += record.frames
        done["faces"] += record.faces
        done["failed"] += record.status != "ok"
        if time.monotonic() - self._recorded > RECORD_S:
            self._record_left()
        self._line()

    def input_done(self, row: InputRow) -> None:
        """Count a finished input."""
        self.done["inputs"] += 1

    def _record_left(self) -> None:
        self._recorded = time.monotonic()
        for what, done in (("inputs", "inputs"), ("units", "units"), ("frames", "expected")):
            metrics.record(metrics.LEFT, self.total[what] - self.done[done], what=what)

    def _line(self) -> None:
        if self._live is None and time.monotonic() - self._printed > LOG_INTERVAL_S:
            self._printed = time.monotonic()
            self._print(self.line())

    def line(self) -> str:
        """Counts, speed and time left, as one line."""
        done, total = self.done, self.total
        took = max(time.monotonic() - self._first, 1e-3)
        parts = [
            f"videos {done['inputs']}/{total['inputs']}",
            f"frames {done['frames']}",
            f"faces {done['faces']} ({done['faces'] / took:.0f}/s)",
            f"failed {done['failed']}",
        ]
        if done["expected"] and took > MIN_ESTIMATE_S:
            left = took * max(total["frames"] / done["expected"] - 1, 0)
            parts.append(f"{_clock(left)} left")
        return " · ".join(parts)

    def _render(self) -> Group:
        head = Text(f"{_clock(time.monotonic() - self._began)}  {self._message}", style="dim")
        if not self.total["units"]:
            return Group(head)
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=24)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row(ProgressBar(total=max(self.total["frames"], 1), completed=self.done["expected"]), self.line())
        return Group(head, grid)


class JsonProgress(Progress):
    """One JSON line per event instead of a display, for log collectors."""

    def __init__(self, console: Console | None = None, label: str = "") -> None:
        super().__init__(Console(file=io.StringIO()), label)
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


def log_end(summary: Summary) -> None:
    """The last line of a run."""
    done = {name: summary.done[name] for name in ("units", "frames", "faces", "bytes")}
    fields = log_fields(job=job_id(), inputs=summary.inputs, seconds=summary.wall_s, message=summary.identities, **done)
    LOG.info("end", extra=fields)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def outcome_table(outcomes: dict[tuple[str, str], StatusCount]) -> Table:
    """Counts of inputs by status and stage."""
    table = Table(title="inputs by status", title_justify="left")
    for name in ("status", "stage", "inputs", "frames", "faces"):
        table.add_column(name, justify="left" if name in ("status", "stage") else "right")
    table.add_column("example", overflow="fold")
    for (status, stage), outcome in sorted(outcomes.items(), key=lambda o: (_ORDER.index(o[0][0]), o[0][1])):
        counts = (f"{count:,}" for count in (outcome.inputs, outcome.frames, outcome.faces))
        table.add_row(Text(status, style=_STYLE[status]), stage, *counts, Text(outcome.example))
    return table


def report(summary: Summary, out: str, console: Console | None = None) -> None:
    """Print the tables at the end of a run."""
    console = console or Console(soft_wrap=True)
    console.print(outcome_table(summary.outcomes))
    if summary.done["units"]:
        console.print(stage_table(summary))
        console.print(f"{summary.start_s:.0f} s of it before the first unit of work was done", style="dim")
    else:
        console.print("nothing was left to do", style="dim")
    if summary.identities:
        console.print(summary.identities, markup=False, highlight=False)
    console.print(f"dataset: {out}   page: rigface inspect {out}", markup=False, highlight=False)


_STYLE = {"ok": "green", "no_face": "yellow", "partial": "yellow", "error": "red", "unreachable": "red"}
_ORDER = list(_STYLE)


def stage_table(summary: Summary) -> Table:
    """Working time by step: share, cost per frame, and throughput of one worker."""
    frames, faces, wall_s = summary.done["frames"], summary.done["faces"], summary.wall_s
    table = Table(title=f"time by step ({frames:,} frames, {faces:,} faces in {_clock(wall_s)})", title_justify="left")
    for name in ("step", "seconds", "share", "ms per frame", "frames per second of a worker"):
        table.add_column(name, justify="left" if name == "step" else "right")
    whole = sum(summary.seconds.values()) or 1.0
    for name, value in summary.seconds.items():
        rate = f"{frames / value:,.0f}" if value else ""
        table.add_row(name, f"{value:.1f}", f"{value / whole:.0%}", f"{1000 * value / max(frames, 1):.1f}", rate)
    table.add_section()
    table.add_row(
        "all", f"{whole:.1f}", "", f"{1000 * whole / max(frames, 1):.1f}", f"{frames / max(wall_s, 1e-3):,.1f} in all"
    )
    return table
