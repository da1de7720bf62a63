"""One row of a table of edits: who edited which picture, what came out, and what was asked.

Path: a row's words (CSV), values (Parquet) or file names and JSON (folder) -> `parse_row` -> AskedRow -> `worker.py`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rigface.edits import NAMED_EXPRESSIONS, EditSpec, LightEdit, Trait
from rigface.evaluation.baselines import CONTROLS
from rigface.evaluation.samples import traits_of

EDITOR = "editor"  # name of an editor in a table without such a column
PICTURES = ("source", "output", "target", "truth")
DEGREES = ("yaw", "pitch", "roll")
LAMP = {f"light_{name}": f"{name}{unit}" for name, unit in
        (("azimuth", "_deg"), ("elevation", "_deg"), ("intensity", ""), ("ambient", ""))}  # fmt: skip
WORDS = ("editor", "take", "edit", "relative", "name", "person", "target_person", "seconds")
COLUMNS = (*PICTURES, *WORDS, *DEGREES, *NAMED_EXPRESSIONS, *LAMP)
ALL_TRAITS = frozenset({"pose", "expression", "light"})  # what a true frame shows, if nothing else was asked


SELF = "self"  # name of the edit if only a true frame says what was wanted


class BadRow(ValueError):
    """A row that cannot be measured; the text is the reason."""


@dataclass(frozen=True)
class AskedRow:
    """A row that can be measured, as far as the table alone tells."""

    place: str  # in the table, for messages: `row 7`, or the file of the output
    editor: str
    source: Path
    output: Path | None  # None: the editor gave nothing, which counts as its failure
    target: Path | None  # picture that traits were copied from
    truth: Path | None  # true picture of the result, in the source's framing
    edit: EditSpec
    name: str  # of the edit in the card
    person: str
    target_person: str
    seconds: float | None  # duration of the edit

    @property
    def key(self) -> str:
        """The same for all editors that were asked for the same."""
        pictures = (self.source, self.target, self.truth)
        return " ".join([*(p.name for p in pictures if p is not None), self.edit.to_json()])

    @property
    def words(self) -> str:
        """What was asked, for the page: `yaw 15°, smile 0.7`, `pose of bob.png`."""
        edit, degrees = self.edit, {f"{name}_deg": name for name in DEGREES}
        said = [f"{name} {v:+g}°" if edit.relative else f"{name} {v:g}°"
                for field, name in degrees.items() if (v := getattr(edit, field)) is not None]  # fmt: skip
        said += [f"{name} {value:g}" for name, value in edit.expression.items()]
        said += [] if edit.light is None else [f"light from {edit.light.azimuth_deg:g}°"]
        if edit.take and self.target is not None and self.target != self.truth:
            said.append(f"{', '.join(sorted(edit.take))} of {self.target.name}")
        return ", ".join(said)


def parse_row(values: Mapping[str, Any], folder: Path, place: str) -> AskedRow:
    """A row from its columns; paths are relative to `folder`. BadRow says what is wrong."""
    given = {name: value for name, value in values.items() if not _is_empty(value)}
    if "reason" in given:
        raise BadRow(str(given["reason"]))
    source, output, target, truth = (_path(given, name, folder) for name in PICTURES)
    if source is None:
        raise BadRow("source: want the picture that was edited")
    editor = str(given.get("editor", EDITOR)).strip()
    if editor in CONTROLS:
        raise BadRow(f"editor: {editor!r} is the name of a control row of the card; want another")
    edit = _edit(given)
    if edit.needs_target and target is None:
        raise BadRow(f"target: want the picture that {', '.join(sorted(edit.take))} was copied from")
    if target is not None and not edit.take:
        raise BadRow(f"take: want the traits copied from the target, of {', '.join(get_args(Trait))}")
    if not traits_of(edit):
        if truth is None:
            raise BadRow("nothing was asked: want a number (yaw, smile ...), a target and `take`, or a truth")
        edit, target, name = EditSpec(take=ALL_TRAITS), truth, SELF  # type: ignore[arg-type]
    else:
        name = " + ".join(traits_of(edit))
    person = str(given.get("person", source.name))
    default = person if target is None or target in (source, truth) else target.name
    return AskedRow(
        place=place,
        editor=editor,
        source=source,
        output=output,
        target=target,
        truth=truth,
        edit=edit,
        name=str(given.get("name", name)),
        person=person,
        target_person=str(given.get("target_person", default)),
        seconds=_number(given, "seconds"),
    )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (value != value)  # NaN


def _path(given: Mapping[str, Any], name: str, folder: Path) -> Path | None:
    if name not in given:
        return None
    text = str(given[name]).strip()
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise BadRow(f"{name}: {text} is an address, and nothing is fetched; want a file")
    return folder / text


def _number(given: Mapping[str, Any], name: str) -> float | None:
    if name not in given:
        return None
    try:
        value = float(given[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise BadRow(f"{name}: want a number, got {given[name]!r}")
    return value


def _edit(given: Mapping[str, Any]) -> EditSpec:
    """What the columns ask for: `edit` (JSON) first, then `take`, then the numbers."""
    try:
        whole = given.get("edit", {})
        if isinstance(whole, dict):  # a struct of Parquet has all its fields in every row
            whole = {name: value for name, value in whole.items() if value is not None}
        edit = EditSpec.from_json(whole) if isinstance(whole, str) else EditSpec.from_dict(whole)
        changes: dict[str, Any] = {f"{n}_deg": v for n in DEGREES if (v := _number(given, n)) is not None}
        amounts = {n: v for n in NAMED_EXPRESSIONS if (v := _number(given, n)) is not None}
        changes["expression"] = {**edit.expression, **amounts}
        lamp: dict[str, Any] = {field: v for n, field in LAMP.items() if (v := _number(given, n)) is not None}
        if lamp:
            changes["light"] = replace(edit.light or LightEdit(), **lamp)
        if "take" in given:
            words = given["take"] if isinstance(given["take"], (list, tuple)) else re.split(r"[\s,;+]+", given["take"])
            changes["take"] = frozenset(word for word in words if word)
        if "relative" in given:
            changes["relative"] = _yes(given["relative"])
        return replace(edit, **changes)
    except BadRow:
        raise
    except (ValueError, TypeError) as error:
        raise BadRow(str(error)) from None


def _yes(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
    if (known := words.get(str(value).strip().lower())) is None:
        raise BadRow(f"relative: want true or false, got {value!r}")
    return known
