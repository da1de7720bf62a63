"""Progress of a training: step, loss, seconds a step and the time left, from the first step on.

On a terminal it is one line that is written over; in a log, a line a minute. It goes to standard error, so that
standard output stays for results; of Ray's workers the first one writes, and Ray hands its lines on.
"""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from pipelines.formatting import duration

LINE_S, LIVE_S = 60.0, 0.25  # at least so long between two lines of a log, and two states of a terminal's line
MEMORY = 0.9  # of the moving average of a step's seconds


class StepProgress:
    """Progress of the steps from `first` (done before) to `steps`."""

    def __init__(
        self, first: int, steps: int, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps, self._step, self._now = steps, first, now
        self._stream = sys.stderr if stream is None else stream
        self._is_live = self._stream.isatty()
        self._last, self._written = now(), float("-inf")
        self._seconds: float | None = None  # of a step, with its wait for examples
        self._width = 0  # of the terminal's line as it stands

    def add(self, step: int, loss: float) -> None:
        """Count a step that has ended."""
        now = self._now()
        seconds = (now - self._last) / max(1, step - self._step)
        self._seconds = seconds if self._seconds is None else MEMORY * self._seconds + (1 - MEMORY) * seconds
        self._last, self._step = now, step
        if now - self._written >= (LIVE_S if self._is_live else LINE_S) or step == self._steps:
            self._written = now
            left = duration((self._steps - step) * self._seconds)
            self._write(
                f"step {step:,} of {self._steps:,} · loss {loss:.4f} · {duration(self._seconds)} a step · {left} left"
            )

    def pause(self) -> None:
        """Leave out of the seconds of a step what was done since the last one, such as a validation."""
        self._last = self._now()

    def close(self) -> None:
        """End the terminal's line."""
        if self._is_live and self._width:
            print(file=self._stream, flush=True)

    def _write(self, text: str) -> None:
        if self._is_live:
            print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
            self._width = len(text)
        else:
            print(text, file=self._stream, flush=True)
