"""Entry point of `rigface`: overview, version, and the run of a command.

A command's module is imported when it is chosen, so `rigface --help` is immediate.
"""

import gc
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import rigface
from pipelines.cli.commands import MODULES, overview
from rigface.errors import RigFaceError, StorageGone
from rigface.host_environment import repair_environment, spare_imports
from rigface.terminal import exit_code, sentence_of

RESUMABLE = ("extract", "pair", "encode", "train", "compare", "evaluate", "judge", "study", "export")
INTERRUPTED = "rigface: stopped. Finished work is kept; run the same command again to continue."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; 1 after an error, 2 for an unknown command, 130 after Ctrl-C, 141 if the output is closed."""
    is_program = argv is None
    if is_program:
        spare_imports()
    repair_environment()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return exit_code(lambda: _run(words), INTERRUPTED if words and words[0] in RESUMABLE else "")
    finally:
        if is_program:
            gc.freeze()  # the interpreter looks for garbage at its end, too


def _run(words: list[str]) -> int:
    name = words[0] if words else "--help"
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"rigface {rigface.__version__}")
        return 0
    if name not in MODULES:
        near = get_close_matches(name, MODULES, n=1)
        hint = f" Did you mean `rigface {near[0]}`?" if near else ""
        print(f"rigface: there is no command {name!r}.{hint} `rigface --help` lists all.", file=sys.stderr)
        return 2
    if name == "serve":  # a program of its own: `serve` and `pipelines` do not import each other
        os.execv(sys.executable, [sys.executable, "-m", "serve", *words[1:]])
    from pipelines.cli.parser import parse

    try:
        return parse(words).run()
    except Exception as e:
        if isinstance(e, BrokenPipeError) or (sentence := sentence_of(e)) is None:
            raise
        error = e if isinstance(e, RigFaceError) else StorageGone(sentence)
        if "--log-format=json" in "=".join(words):  # as two words or as one
            from pipelines.telemetry import log_events

            log_events.failed(error)
        else:
            print(f"rigface: {error}", file=sys.stderr)
        return 1
