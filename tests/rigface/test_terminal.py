"""Exit codes: errors of sockets and argument parsers pass through, interrupts do not."""

import pytest

from rigface.terminal import INTERRUPTED, exit_code


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
