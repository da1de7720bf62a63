"""Output and exit status of `rigface assets list` and `check`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.assets.check import Status, needs, statuses
from rigface.assets import ASSETS


def listed(folder: Path) -> int:
    """Print each asset with its place and licence."""
    table = Table("asset", "place", "licence", box=None, pad_edge=False)
    for status in statuses(ASSETS, str(folder)):
        table.add_row(status.name, str(status.path or "-"), ASSETS[status.name].licence)
    Console().print(table)
    print(f"searched first: {folder}")
    return 0


def checked(profile: str, folder: Path) -> int:
    """Print what a profile lacks, or the state of all assets if none is named; 1 if the profile lacks something."""
    state = statuses(needs(profile) if profile else ASSETS, str(folder))
    console = Console()
    for status in state:
        console.print(_line(status), style="yellow" if status.problem else None, highlight=False, soft_wrap=True)
    lacking = [status.name for status in state if status.problem]
    if profile:
        print(f"{profile}: lacks {', '.join(lacking)}" if lacking else f"{profile}: complete")
    return 1 if profile and lacking else 0


def _line(status: Status) -> str:
    if not status.problem:
        return f"{status.name}: {status.path}"
    asset = ASSETS[status.name]
    unlocks = f" Unlocks: {asset.unlocks}." if asset.unlocks else ""
    return f"{status.name}: {status.problem}. Licence: {asset.licence}.{unlocks}"
