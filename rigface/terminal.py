"""Exit codes of command-line programs: a closed pipe and Ctrl-C end them quietly."""

import errno
import io
import os
import select
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
INTERRUPTED = 130  # 128 + SIGINT


def exit_code(main: Callable[[], int], on_interrupt: str = "") -> int:
    """Run a program and return its exit code.

    A reader that is gone (`rigface --help | head -1`) ends it with 141, Ctrl-C with 130 and the line `on_interrupt` on
    standard error, both without a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 has no `°`
    copies = {}
    for number in (1, 2):
        with suppress(OSError):  # the output is closed
            copies[number] = os.dup(number)
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        if on_interrupt and not _closed(copies):
            print(on_interrupt, file=sys.stderr)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # rich exits by itself when it meets a closed pipe
        if not _closed(copies):  # a socket, or the end of an argument parser
            raise
        return CLOSED_PIPE
    finally:
        null = os.open(os.devnull, os.O_WRONLY)
        for number in _closed(copies):  # the interpreter flushes at its end, too
            os.dup2(null, number)
        for number in (null, *copies.values()):
            os.close(number)


def os_error_sentence(error: OSError) -> str:
    """One sentence that names the file, what the system said, and what to do."""
    advice = {
        errno.ENOSPC: "make room and run the same command again",
        errno.EACCES: "change its rights, or choose another place",
        errno.EROFS: "choose another place",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ENOTDIR: "a part of its path is a file; choose another place",
    }.get(error.errno or 0, "")
    what = f"{error.filename}: " if error.filename else ""
    return f"{what}{error.strerror or error}{f'; {advice}' * bool(advice)}"


def _closed(copies: Mapping[int, int]) -> list[int]:
    """Those of the outputs that are pipes whose reader is gone."""
    poll = select.poll()
    for copy in copies.values():
        poll.register(copy, 0)
    gone = {copy for copy, event in poll.poll(0) if event & select.POLLERR}
    return [number for number, copy in copies.items() if copy in gone]
