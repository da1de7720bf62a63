"""Ranges of numbers: bounds, values that are not finite, and every number of every command."""

import math
import types
from dataclasses import MISSING, fields, is_dataclass, replace
from importlib import import_module
from types import SimpleNamespace
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest

from pipelines.cli.commands import MODULES
from pipelines.edit.flags import EditFlags, parse_flags
from rigface.errors import PlanError
from rigface.ranges import in_range
from serve import __main__ as serve_main


@pytest.mark.parametrize(
    ("interval", "good", "bad"),
    [
        ("[0, 1]", (0, 1, 0.5, None, (0, 1)), (-0.1, 1.1, math.nan, math.inf, (0, 2))),
        ("(0, inf)", (1e-9, 10**30), (0, -1, math.inf, math.nan)),
        ("[1, 5)", (1, 4.9), (5, 0)),
    ],
)
def test_numbers_outside_of_interval_are_refused(interval, good, bad):
    for value in good:
        in_range(SimpleNamespace(a_number=value), interval, "a_number")
    for value in bad:
        with pytest.raises(PlanError, match="--a-number: want "):
            in_range(SimpleNamespace(a_number=value), interval, "a_number")


def _numbers(kind):
    """The dataclasses of a command, each with the names and types of its numbers."""
    for name, hint in get_type_hints(kind).items():
        kinds = set(_parts(hint))
        for inner in kinds:
            if is_dataclass(inner):
                yield from _numbers(inner)
        if kinds & {int, float}:
            yield kind, name, float if float in kinds else int, "tuple" in str(hint)


def _parts(hint):
    if get_origin(hint) in (Union, types.UnionType, tuple):
        for part in get_args(hint):
            yield from _parts(part)
    elif get_origin(hint) is not Literal:
        yield hint


COMMANDS = [command for module in set(MODULES.values()) - {""} for command in
            import_module(f"pipelines.cli.{module}").COMMANDS.values()]  # fmt: skip
COMMANDS += [serve_main.Start, *serve_main.COMMANDS.values()]
NUMBERS = sorted({number for command in COMMANDS for number in _numbers(command)}, key=lambda n: (n[0].__name__, n[1]))


@pytest.mark.parametrize(
    ("kind", "name", "number", "is_tuple"), NUMBERS, ids=[f"{k.__name__}.{n}" for k, n, *_ in NUMBERS]
)
def test_every_number_of_every_command_has_a_range(kind, name, number, is_tuple):
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    good = kind(**dict.fromkeys(required, ("a",)))
    for bad in (-(10**30), *((math.nan, math.inf) if number is float else ())):
        with pytest.raises(PlanError):
            _checked(good, {name: (bad,) * 3 if is_tuple else bad})


def _checked(config, changes):
    changed = replace(config, **changes)
    if isinstance(changed, EditFlags):
        parse_flags(changed)
