"""Read a table of edits: CSV, Parquet, or a folder of pictures with names.

Path: TABLE -> `read_table` -> [AskedRow], and the rows that cannot be measured, with their reasons.

A folder holds, for each NAME: NAME.source.png, NAME.output.png (or NAME.output.EDITOR.png, one for each editor), and
NAME.target.png, NAME.truth.png or NAME.json with the other columns. Any picture format will do.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipelines.inputs.manifests import rows as table_rows
from pipelines.judge.asked_row import COLUMNS, PICTURES, AskedRow, BadRow, parse_row
from rigface.errors import PlanError
from rigface.evaluation.samples import traits_of

MAX_ROWS = 200_000
MAX_TABLE_BYTES = 2**28
MAX_JSON_BYTES = 2**20
REASON = "reason"  # why a row of a folder cannot be measured


@dataclass(frozen=True)
class BadRowOf:
    """A row that was not measured, or an output that is missing."""

    place: str  # in the table
    editor: str
    source: str
    output: str
    reason: str


@dataclass
class Table:
    """What a table holds."""

    rows: list[AskedRow] = field(default_factory=list)
    bad: list[BadRowOf] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # columns or files that mean nothing here


def read_table(place: str) -> Table:
    """Read it; PlanError if it is no table, has no column `source`, no row, or too many."""
    path = Path(place)
    if path.is_dir():
        found, table = _folder_rows(path), Table()
    elif path.suffix.lower() in (".csv", ".parquet") and path.is_file():
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise PlanError(f"{place}: want a table of at most {MAX_TABLE_BYTES / 2**20:.0f} MiB; split it")
        found, table = _file_rows(path), Table()
    else:
        raise PlanError(f"{place}: want a .csv or .parquet file that exists, or a folder of named pictures")
    folder = path if path.is_dir() else path.parent
    known = {*COLUMNS, REASON}
    for k, (where, values) in enumerate(found, 1):
        if k > MAX_ROWS:
            raise PlanError(f"{place}: want at most {MAX_ROWS:,} rows; split the table")
        table.ignored += [name for name in values if name not in known and name not in table.ignored]
        try:
            table.rows.append(parse_row(values, folder, where))
        except BadRow as error:
            table.bad.append(bad_row(where, values, str(error)))
    if not table.rows and not table.bad:
        wanted = "; want NAME.source.png beside NAME.output.png" if path.is_dir() else ""
        raise PlanError(f"{place}: no row{wanted}")
    table.rows = _one_kind_a_name(table.rows)
    return table


def bad_row(place: str, values: Mapping[str, Any], reason: str) -> BadRowOf:
    """A row of `bad_rows.csv`."""
    editor, source, output = (str(values.get(name) or "") for name in ("editor", "source", "output"))
    return BadRowOf(place, editor, source, output, reason)


def hint(ignored: str) -> str:
    """The word for an ignored column, with the one that was perhaps meant."""
    near = get_close_matches(ignored, COLUMNS, n=1, cutoff=0.7)
    return f"{ignored} (did you mean {near[0]}?)" if near else ignored


def _file_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    kind = path.suffix.lower()
    with path.open("rb") as file:
        for k, row in enumerate(table_rows(file, kind, ["source"], str(path), COLUMNS), 1):
            yield f"row {k}", {name: value for name, value in row.items() if name is not None}


def _folder_rows(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A row for each output, and for each source without one."""
    names: dict[str, dict[str, list[str]]] = {}
    for file in sorted(p.name for p in folder.iterdir() if p.is_file()):
        if file.endswith(".json"):
            names.setdefault(file.removesuffix(".json"), {}).setdefault("json", []).append(file)
        for part in PICTURES:
            name, mark, _ = file.partition(f".{part}.")
            if mark:
                names.setdefault(name, {}).setdefault(part, []).append(file)
    for name, parts in names.items():
        if not parts.keys() & {"source", "output"}:
            continue  # of another program
        shared: dict[str, Any] = {part: parts[part][0] for part in ("source", "target", "truth") if part in parts}
        shared |= _json(folder, parts.get("json", []))
        if "output" not in parts:
            yield shared["source"], {**shared, REASON: f"there is no {name}.output beside it"}
        for output in parts.get("output", []):
            editor = output.removeprefix(f"{name}.output.").rpartition(".")[0]
            yield output, {**shared, "output": output, **({"editor": editor} if editor else {})}


def _json(folder: Path, files: list[str]) -> dict[str, Any]:
    """The columns that a JSON file holds, or the reason why it is none."""
    if not files:
        return {}
    path = folder / files[0]
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("it is larger than 1 MiB")
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("want an object of columns")
    except (OSError, ValueError) as error:
        return {REASON: f"{path.name}: {error}"}
    return values


def _one_kind_a_name(rows: list[AskedRow]) -> list[AskedRow]:
    """Rows of one name and different traits get names of their own, for a row of the card has one set of traits."""
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(row.name, set()).add(" + ".join(traits_of(row.edit)))
    return [
        row if len(kinds[row.name]) == 1 else replace(row, name=f"{row.name}: {' + '.join(traits_of(row.edit))}")
        for row in rows
    ]
