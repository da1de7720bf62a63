"""Parser of the command line: words -> a command, by tyro from the dataclass of the command.

Presets come first: `--preset` and `--workers` choose a whole configuration, whose values are the defaults of
all other flags.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Protocol

import tyro

from pipelines.cli.commands import MODULES


class Command(Protocol):
    """A parsed command."""

    def run(self) -> int:
        """Do it and return the exit code."""


def parse(argv: Sequence[str]) -> Command:
    """A command from its words, its name first; SystemExit after --help or wrong words, whose text is printed."""
    name, *words = argv
    module = import_module(f"pipelines.cli.{MODULES[name]}")
    default = module.default_of(name, words) if MODULES[name] in ("datasets", "learning") else {}
    if name == "submit":  # its words and those of the job stand in one line
        words, job = module.split(words)
        inner = parse(job) if job and job[0] in module.submit.JOBS else None
        default = {"default": module.SubmitCommand(job=tuple(job), command=inner)}
    faces = {}
    if name == "edit":
        words, faces["faces"] = module.split_faces(words)
    if name == "animate":
        words = module.paired_prompts(words)
    command: Command = tyro.cli(module.COMMANDS[name], prog=f"rigface {name}", args=words, **default)
    return replace(command, **faces) if faces else command  # type: ignore[type-var]
