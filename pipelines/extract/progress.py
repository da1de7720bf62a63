"""What the user sees: a live line while the job runs, two tables when it is over.

Everything shown is counted from the records that units leave; nothing is asked of Ray. On a terminal the line is live; in
a log it is printed anew every few seconds.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.telemetry import metrics

if TYPE_CHECKING:
    from pipelines.extract.summary import StatusCount, Summary

EVERY_S = 5.0  # between two lines of a log
SETTLED_S = 3.0  # no time left is guessed before


class Progress:
    """The display of one run.

    Args:
        console: where to; None: standard error, so that standard output stays for results.
    """

    def __init__(self, console: Console | None = None) -> None:
        # A handle of its own, because standard error is filtered while Ray runs (`cluster`), which a live display would feel.
        self.console = console or Console(file=os.fdopen(os.dup(2), "w", buffering=1))
        self._live: Live | None = None
        self._began = self._first = self._said = time.monotonic()
        self._words = ""
        self.total = Counter[str]()
        self.done = Counter[str]()

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, words: str) -> None:
        """What is being done now."""
        self._words = words
        if self._live is None:
            self.console.print(f"[{_clock(time.monotonic() - self._began)}] {words}", markup=False, highlight=False)

    def expect(self, inputs: int, units: int, frames: int) -> None:
        """How much there is to do."""
        self.total.update(inputs=inputs, units=units, frames=frames)
        self._tell()
        self._first = self._said = time.monotonic()

    def unit(self, record: dict[str, Any], expected: int) -> None:
        """A unit is done."""
        if not self.done["units"]:
            self._first = time.monotonic() - sum(record["seconds"].values())  # when the actors were ready
        failed = int(record["status"] != "ok")
        self.done.update(units=1, expected=expected, frames=record["frames"], faces=record["faces"], failed=failed)
        self._tell()
        self._line()

    def closed(self, row: dict[str, Any]) -> None:
        """An input is done; its row of `inputs/`."""
        self.done.update(inputs=1)
        self._tell()

    def _tell(self) -> None:
        for what, done in (("inputs", "inputs"), ("units", "units"), ("frames", "expected")):
            metrics.tell(metrics.LEFT, self.total[what] - self.done[done], what=what)

    def _line(self) -> None:
        if self._live is None and time.monotonic() - self._said > EVERY_S:
            self._said = time.monotonic()
            self.console.print(f"[{_clock(self._said - self._began)}] {self.line()}", markup=False, highlight=False)

    def line(self) -> str:
        """Counts, speed and time left, as one line."""
        done, total = self.done, self.total
        took = max(time.monotonic() - self._first, 1e-3)
        words = [
            f"videos {done['inputs']}/{total['inputs']}",
            f"frames {done['frames']}",
            f"faces {done['faces']} ({done['faces'] / took:.0f}/s)",
            f"failed {done['failed']}",
        ]
        if done["expected"] and took > SETTLED_S:
            left = took * max(total["frames"] / done["expected"] - 1, 0)
            words.append(f"{_clock(left)} left")
        return " · ".join(words)

    def _render(self) -> Group:
        head = Text(f"{_clock(time.monotonic() - self._began)}  {self._words}", style="dim")
        if not self.total["units"]:
            return Group(head)
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=24)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row(ProgressBar(total=max(self.total["frames"], 1), completed=self.done["expected"]), self.line())
        return Group(head, grid)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def outcome_table(outcomes: dict[tuple[str, str], StatusCount]) -> Table:
    """Counts of inputs by status and stage."""
    table = Table(title="what became of the inputs", title_justify="left")
    for name in ("status", "stage", "inputs", "frames", "faces"):
        table.add_column(name, justify="left" if name in ("status", "stage") else "right")
    table.add_column("for example", overflow="fold")
    for (status, stage), one in sorted(outcomes.items(), key=lambda o: (_ORDER.index(o[0][0]), o[0][1])):
        counts = (f"{count:,}" for count in (one.inputs, one.frames, one.faces))
        table.add_row(Text(status, style=_STYLE[status]), stage, *counts, Text(one.example))
    return table


def report(summary: Summary, out: str, console: Console | None = None) -> None:
    """What is printed when a run is over."""
    console = console or Console(soft_wrap=True)
    console.print(outcome_table(summary.outcomes))
    if summary.done["units"]:
        took = summary.wall_s
        console.print(stage_table(summary.seconds, summary.done["frames"], summary.done["faces"], took))
        console.print(f"{summary.start_s:.0f} s of it until the first unit of work came back", style="dim")
    else:
        console.print("nothing was left to do", style="dim")
    if summary.identities:
        console.print(summary.identities, markup=False, highlight=False)
    console.print(f"dataset: {out}   look at it: rigface inspect {out}", markup=False, highlight=False)


_ORDER = ("ok", "no_face", "partial", "error")
_STYLE = {"ok": "green", "no_face": "yellow", "partial": "yellow", "error": "red"}


def stage_table(seconds: dict[str, float], frames: int, faces: int, wall_s: float) -> Table:
    """Working time by step: its share, its cost per frame, and what one worker of it could do."""
    table = Table(
        title=f"where the time went ({frames:,} frames, {faces:,} faces in {_clock(wall_s)})", title_justify="left"
    )
    for name in ("stage", "seconds", "share", "ms per frame", "frames per second and worker"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    whole = sum(seconds.values()) or 1.0
    for name, value in seconds.items():
        rate = f"{frames / value:,.0f}" if value else ""
        table.add_row(name, f"{value:.1f}", f"{value / whole:.0%}", f"{1000 * value / max(frames, 1):.1f}", rate)
    table.add_section()
    table.add_row(
        "all", f"{whole:.1f}", "", f"{1000 * whole / max(frames, 1):.1f}", f"{frames / max(wall_s, 1e-3):,.1f} in all"
    )
    return table
