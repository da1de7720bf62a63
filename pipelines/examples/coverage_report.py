"""Report of `pair`: candidate and chosen pairs by bin, counts of examples, refused pairs by reason."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

TITLES = {"pose": "turn between the two, degrees", "expression": "expression, RMS", "light": "light, share"}


@dataclass(frozen=True)
class PairReport:
    """Coverage of the examples of an output."""

    candidates: int  # possible pairs
    available: dict[str, list[int]]  # trait -> candidate pairs by bin
    chosen: dict[str, list[int]]  # trait -> chosen pairs by bin
    bins: dict[str, list[str]]  # trait -> names of the bins
    pairs: int  # examples of two frames
    relit_alone: int  # examples of one frame and itself
    relit: int  # examples with that property, as the next three
    posed: int
    mirrored: int
    captions: int
    people: dict[str, int]  # by split
    examples: dict[str, int]  # by split
    refused: dict[str, int]  # reason -> number of rows or pairs
    made: dict[str, int] = field(default_factory=dict)  # rows in the output, in all and by split and kind


def print_report(report: PairReport, console: Console | None = None) -> None:
    console = console or Console(soft_wrap=True)
    for trait, title in TITLES.items():
        console.print(_table(report, trait, title))
    kinds = ", ".join(f"{name} {count:,}" for name, count in report.made.items() if name != "rows")
    console.print(
        f"{report.made['rows']:,} examples ({kinds}); {report.people['train']} people to learn from, "
        f"{report.people['test']} held out",
        highlight=False,
    )
    refused = ", ".join(f"{reason}: {count:,}" for reason, count in report.refused.items())
    console.print(f"refused: {refused}", style="dim", highlight=False)


def _table(report: PairReport, trait: str, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in report.bins[trait]:
        table.add_column(name, justify="right")
    for label, counts in (("candidates", report.available), ("chosen", report.chosen)):
        table.add_row(label, *(f"{count:,}" for count in counts[trait]))
    return table
