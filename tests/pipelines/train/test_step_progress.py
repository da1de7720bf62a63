"""Progress of a training, on a terminal and in a log."""

import io
from itertools import count

from pipelines.train.step_progress import StepProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(stream: io.StringIO, steps: int = 200, seconds: float = 2.0) -> str:
    clock = count(0, seconds)
    progress = StepProgress(0, steps, stream, lambda: next(clock))
    for step in range(1, steps + 1):
        progress.add(step, 0.5)
    progress.close()
    return stream.getvalue()


def test_log_has_a_line_a_minute_from_the_first_step_to_the_last():
    lines = lines_of(io.StringIO()).splitlines()
    assert lines[0] == "step 1 of 200 · loss 0.5000 · 2.0 s a step · 7 min left"
    assert [line.split(" ")[1] for line in lines] == ["1", "31", "61", "91", "121", "151", "181", "200"]
    assert lines[-1].endswith("0.0 s left")


def test_terminal_has_one_line_that_is_written_over():
    text = lines_of(Terminal(), steps=3)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    states = text.strip().split("\r")
    assert [state.split(" ")[1] for state in states] == ["1", "2", "3"]


def test_pause_is_left_out_of_the_seconds_of_a_step():
    clock = iter([0.0, 2.0, 102.0, 104.0])
    stream = io.StringIO()
    progress = StepProgress(0, 2, stream, lambda: next(clock))
    progress.add(1, 0.5)
    progress.pause()
    progress.add(2, 0.5)
    assert "2.0 s a step" in stream.getvalue().splitlines()[-1]
