"""Exit codes: errors of sockets and argument parsers pass through, interrupts do not."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from rigface.errors import BadImage
from rigface.terminal import INTERRUPTED, exit_code, is_out_of_memory, os_error_sentence, sentence_of


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


def test_errors_a_user_can_mend_are_one_sentence():
    class Error(Exception):
        strerror = "Invalid data found when processing input"

    Error.__module__ = "av.error"
    assert sentence_of(BadImage("empty file")) == "empty file"
    assert sentence_of(MemoryError()) == (
        "not enough memory (MemoryError). Use smaller files, fewer workers or a smaller batch"
    )
    assert sentence_of(Error()).startswith("Invalid data found when processing input; check the file")
    assert "its disk or network fails" in sentence_of(OSError(errno.EIO, "Input/output error", "/mnt/a.mp4"))
    assert sentence_of(KeyError("a fault of the program")) is None


def test_libraries_out_of_memory_are_recognised():
    import cv2
    import torch

    with pytest.raises(cv2.error) as of_cv2:
        cv2.resize(np.zeros((4, 4), np.uint8), (2**31 - 1, 2**20))
    full = RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
    assert all(is_out_of_memory(error) for error in (torch.OutOfMemoryError(), full, of_cv2.value))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_terminal_without_utf8_gets_question_marks():
    code = "from rigface.terminal import exit_code; exit_code(lambda: print('15°') or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"15?\n"), done.stderr
