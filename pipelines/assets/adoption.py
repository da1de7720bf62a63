"""`rigface assets adopt`: link recognised files into the layout that `rigface.assets.find` searches.

Path: folders of downloads -> `recognition.search` -> links below the assets folder -> a table. Nothing is copied,
downloaded or executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.assets.recognition import Found, search
from rigface.assets import ASSETS
from rigface.face.head.flame import licence_of
from rigface.model.model_config import RELEASED

ADOPTED = "adopted"
MODELS_OF_FLAME = ASSETS["flame"].holds


@dataclass(frozen=True)
class Row:
    """What became of a file."""

    found: Found
    outcome: str  # ADOPTED, or why not
    licence: str = ""  # in one line
    unlocks: str = ""  # command


def adopt(folders: tuple[Path, ...], to: Path) -> list[Row]:
    """Link everything that is recognised below some folders.

    A link of an earlier run is replaced; a file that is no link is left as it is. Of two files for the same place the
    first is taken.

    Args:
        to: assets folder; made if it is not there.

    Raises:
        BadCheckpoint: a folder is not there.
    """
    rows: list[Row] = []
    taken: dict[str, Path] = {}
    for found in [f for folder in folders for f in search(folder.absolute())]:
        if found.reason:
            rows.append(Row(found, f"refused: {found.reason}"))
            continue
        key = "emoca" if found.asset == "emoca" else found.place  # one model of EMOCA: they do not mix
        earlier = taken.setdefault(key, found.source)
        if earlier != found.source:
            rows.append(Row(found, f"not used: {earlier} is adopted already"))
            continue
        asset = ASSETS[found.asset]
        licence = licence_of(found.source) if found.source.name in MODELS_OF_FLAME else asset.licence
        if found.asset == "emoca":
            _unlink((to / "emoca").glob("*.ckpt"))
        rows.append(Row(found, _link(found.source, to, found.place), licence, asset.unlocks))
        for beside in _companions(found):
            _link(beside, to, f"{found.asset}/{beside.name}")
    config = to / "rigface" / "config.json"
    if any(row.outcome == ADOPTED and row.found.place.startswith("rigface/") for row in rows) and not config.exists():
        config.write_text(json.dumps(RELEASED.to_json(), indent=2) + "\n")
    return rows


def report(rows: list[Row], to: Path) -> int:
    """Print file, licence and what it makes possible, then what was not used; returns 1 if nothing was adopted."""
    used = [row for row in rows if row.outcome == ADOPTED]
    table = Table("file", "licence", "makes possible", box=None, pad_edge=False)
    for row in used:
        table.add_row(row.found.place, row.licence, row.unlocks)
    console = Console()
    if used:
        console.print(table)
    for row in rows:
        if line := row.found.note if row.outcome == ADOPTED else row.outcome:
            console.print(f"{row.found.source}: {line}", style="yellow", highlight=False)
    names = ", ".join(sorted({row.found.asset for row in used}))
    print(f"{len(used)} linked in {to}: {names}" if used else "nothing was recognised")
    return 0 if used else 1


def _companions(found: Found) -> list[Path]:
    """Files that belong to a recognised one: the licence of a FLAME model, the settings of an EMOCA model."""
    if found.source.name in MODELS_OF_FLAME:
        names = sorted(p for p in found.source.parent.iterdir() if p.is_file())
        return [p for p in names if p.name.lower().startswith(("licen", "copying"))]
    if found.asset == "emoca":
        near = [found.source.parents[k] / "cfg.yaml" for k in range(min(3, len(found.source.parents)))]
        return [p for p in near if p.is_file()][:1]
    return []


def _unlink(links: Iterable[Path]) -> None:
    for link in links:
        if link.is_symlink():
            link.unlink()


def _link(source: Path, to: Path, place: str) -> str:
    """Make a link to `source` at a place below `to`; returns what was done."""
    source, target = source.resolve(), to / place
    if target.exists() and target.resolve() == source:
        return ADOPTED
    if target.exists() and not target.is_symlink():
        return f"not used: {target} is there already; remove it to replace it"
    if target.parent != to and target.parent.is_symlink():
        return f"not used: {target.parent} is a link to another folder, in which nothing is changed"
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.symlink_to(source)
    fresh.replace(target)
    return ADOPTED
