"""What pairs cover, as tables: how many candidates lay in each bin, and how many were taken."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

UNITS = {"pose": "turn between the two, degrees", "expression": "expression, RMS", "light": "light, share"}


def printed(report: dict[str, Any], console: Console | None = None) -> None:
    """Print a report of `pair`."""
    console = console or Console(soft_wrap=True)
    for trait, title in UNITS.items():
        console.print(_table(report, trait, title))
    made = report["made"]
    people = report["people"]
    console.print(
        f"{made['rows']:,} examples ({', '.join(f'{k} {v:,}' for k, v in made.items() if k != 'rows')}); "
        f"{people['train']} people to learn from, {people['test']} held out",
        highlight=False,
    )
    refused = ", ".join(f"{reason}: {count:,}" for reason, count in report["refused"].items())
    console.print(f"refused: {refused}", style="dim", highlight=False)


def _table(report: dict[str, Any], trait: str, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in report["bins"][trait]:
        table.add_column(name, justify="right")
    for row, label in (("available", "candidates"), ("chosen", "chosen")):
        table.add_row(label, *(f"{n:,}" for n in report[row][trait]))
    return table
