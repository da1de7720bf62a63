"""Ends of command-line programs: exit codes, and one sentence about each error that a user can mend."""

import errno
import io
import os
import select
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from rigface.errors import RigFaceError

CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
INTERRUPTED = 130  # 128 + SIGINT
CV_NO_MEMORY = -4  # cv2.Error.StsNoMem
ADVICE = {
    errno.ENOSPC: "make room and run the same command again",
    errno.EDQUOT: "make room and run the same command again",
    errno.EFBIG: "a limit (ulimit -f) or the disk's format allows no larger file; choose another place",
    errno.EACCES: "change its rights, or choose another place",
    errno.EPERM: "change its rights, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of its path is a file; choose another place",
    errno.EISDIR: "give the name of a file",
    errno.EIO: "its disk or network fails; run the same command again when it is back",
    errno.ESTALE: "its disk or network fails; run the same command again when it is back",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


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


def sentence_of(error: BaseException) -> str | None:
    """One sentence for a user: the file, what is wrong, and what to do; None for a fault of the program itself."""
    if isinstance(error, RigFaceError):
        return str(error)
    if isinstance(error, OSError):
        return os_error_sentence(error)
    if is_out_of_memory(error):
        return f"not enough memory ({type(error).__name__}). Use smaller files, fewer workers or a smaller batch"
    if type(error).__module__.startswith("av."):  # of FFmpeg
        name, reason = getattr(error, "filename", None), getattr(error, "strerror", None) or error
        return f"{f'{name}: ' * bool(name)}{reason}; check the file with another player, or convert it"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True for errors of Python, NumPy, torch and OpenCV about memory; none of these is imported."""
    kind = f"{type(error).__module__}.{type(error).__name__}"
    is_of_cv2 = kind == "cv2.error" and getattr(error, "code", 0) == CV_NO_MEMORY
    is_of_torch = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or kind == "torch.OutOfMemoryError" or is_of_cv2 or is_of_torch


def os_error_sentence(error: OSError) -> str:
    """One sentence that names the file, what the system said, and what to do."""
    advice = ADVICE.get(error.errno or 0, "")
    what = f"{error.filename}: " if error.filename else ""
    return f"{what}{error.strerror or error}{f'; {advice}' * bool(advice)}"


def _closed(copies: Mapping[int, int]) -> list[int]:
    """Those of the outputs that are pipes whose reader is gone."""
    poll = select.poll()
    for copy in copies.values():
        poll.register(copy, 0)
    gone = {copy for copy, event in poll.poll(0) if event & select.POLLERR}
    return [number for number, copy in copies.items() if copy in gone]
