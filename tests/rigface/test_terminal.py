"""Exit codes: errors of sockets and argument parsers pass through, interrupts do not."""

import errno
import os
import subprocess
import sys

import pytest

from rigface.terminal import INTERRUPTED, exit_code, os_error_sentence


def raising(error):
    def main():
        raise error

    return main


def test_code_of_the_program_is_returned():
    assert exit_code(lambda: 7) == 7


@pytest.mark.parametrize("error", [BrokenPipeError(), SystemExit(2), OSError()])
def test_error_passes_through_while_outputs_are_open(error):
    with pytest.raises(type(error)):
        exit_code(raising(error))


def test_interrupt_prints_its_line(capsys):
    assert exit_code(raising(KeyboardInterrupt()), "stopped") == INTERRUPTED
    assert capsys.readouterr().err == "stopped\n"


def test_error_of_the_system_is_one_sentence():
    full = OSError(errno.ENOSPC, "No space left on device", "/data/out.png")
    assert os_error_sentence(full) == (
        "/data/out.png: No space left on device; make room and run the same command again"
    )
    assert os_error_sentence(OSError("the tunnel is closed")) == "the tunnel is closed"


def test_terminal_without_utf8_gets_question_marks():
    code = "from rigface.terminal import exit_code; exit_code(lambda: print('15°') or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"15?\n"), done.stderr
