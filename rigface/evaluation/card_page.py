"""A finished evaluation: its files, its page with pictures, and its short tables for a terminal.

Path: rows with pictures -> `publish` -> OUT/card.*, rows.parquet; `print_tables`. `rigface evaluate` and
`rigface judge` end here.
"""

from collections.abc import Sequence

from markupsafe import Markup
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from rigface.evaluation import card_tables, report
from rigface.evaluation.baselines import CONTROLS
from rigface.evaluation.gallery import groups
from rigface.evaluation.metric_registry import Row
from rigface.evaluation.report_card import ReportCard
from rigface.evaluation.summary import headlines
from rigface.pages.environment import environment
from rigface.storage.store import Store
from rigface.types import DLIB_SAME_PERSON

MAX_UNIT = 14  # characters of a unit that the terminal shows; longer ones explain, and the page has them
PICTURE = "picture"  # column of a row: its output as JPEG, for the page; not in rows.parquet


def publish(store: Store, card: ReportCard, rows: Sequence[Row], lede: str, shown: int = 24) -> None:
    """Write card.html, card.md, card.json, card.parquet and rows.parquet.

    `lede` is the sentence above the tables, `shown` the number of tasks with pictures.
    """
    plain = [{name: value for name, value in row.items() if name != PICTURE} for row in rows]
    for name, data in report.files(card, plain, top_of_page(card, rows, lede, shown)).items():
        store.publish(name, data)


def top_of_page(card: ReportCard, rows: Sequence[Row], lede: str, shown: int) -> Markup:
    """The first part of the page: the short tables, and pictures."""
    text = environment("rigface.evaluation").get_template("top.html").render(
        lede=lede, headlines=headlines(card), same_person=DLIB_SAME_PERSON, groups=groups(rows, shown)
    )  # fmt: skip
    return Markup(text)


def print_tables(card: ReportCard, console: Console | None = None) -> None:
    """Print the short tables, a column for each model and control; the best model of a line is bold."""
    console = console or Console()
    for headline in headlines(card):
        lines = [line[1:] for line in headline.body]  # without the model's name
        table = Table(
            "",
            *(Column(line[0], justify="right", style="dim" if k in headline.controls else "")
              for k, line in enumerate(headline.body)),
            title=f"{headline.edit} ({headline.edits} edits)",
            title_justify="left",
        )  # fmt: skip
        for j, name in enumerate(headline.head[1:]):
            label, unit = name.split("\n")
            cells = (
                Text(line[j], style="bold green" if (k, j + 1) in headline.best else "") for k, line in enumerate(lines)
            )
            table.add_row(label if len(unit) > MAX_UNIT else f"{label}, {unit}", *cells)
        console.print(table)
    claims = [table for table in card_tables.short_tables(card) if table.title.startswith(card_tables.CLAIMS)]
    rest = [t for t in card_tables.tables(card) if t.title in (card_tables.LINEAR, card_tables.CLIPS)]
    for more in (*claims, *rest):
        columns = [Column(name.replace("\n", " "), no_wrap=name in ("model", "number")) for name in more.head]
        table = Table(*columns, title=more.title, title_justify="left")
        for line in more.body:
            if line[0] not in CONTROLS:
                table.add_row(*line)
        console.print(table)
