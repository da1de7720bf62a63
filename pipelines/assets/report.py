"""Tables and exit statuses of `rigface assets`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.assets.adoption import adopt
from pipelines.assets.check import Status, statuses
from pipelines.assets.recognition import Found
from rigface.assets import ASSETS


def adopted(folders: tuple[Path, ...], to: Path) -> int:
    """Adopt folders and print file, licence and what it makes possible; 1 if nothing was recognised."""
    rows = adopt(folders, to)
    used = [row for row in rows if row.outcome == "adopted"]
    table = Table("file", "licence", "makes possible", box=None, pad_edge=False)
    for row in used:
        assert isinstance(row.found, Found)
        table.add_row(row.found.place, row.licence, row.unlocks)
    console = Console()
    if used:
        console.print(table)
    for row in rows:
        note = getattr(row.found, "note", "")
        if row.outcome != "adopted" or note:
            console.print(f"{row.found.source}: {row.outcome if row.outcome != 'adopted' else note}", style="yellow")
    names = sorted({row.found.asset for row in used if isinstance(row.found, Found)})
    print(f"{len(used)} linked in {to}" + (f": {', '.join(names)}" if names else ""))
    return 0 if used else 1


def listed(folder: Path) -> int:
    """Print each asset with its place and licence."""
    table = Table("asset", "place", "licence", box=None, pad_edge=False)
    for status in statuses(ASSETS, str(folder)):
        table.add_row(status.name, str(status.path or "-"), ASSETS[status.name].licence)
    Console().print(table)
    print(f"searched first: {folder}")
    return 0


def checked(folder: Path) -> int:
    """Print the state of all assets."""
    console = Console()
    for status in statuses(ASSETS, str(folder)):
        console.print(_line(status), style="yellow" if status.problem else None, highlight=False)
    return 0


def _line(status: Status) -> str:
    if not status.problem:
        return f"{status.name}: {status.path}"
    asset = ASSETS[status.name]
    unlocks = f" Unlocks: {asset.unlocks}." if asset.unlocks else ""
    return f"{status.name}: {status.problem}. Licence: {asset.licence}.{unlocks}"
