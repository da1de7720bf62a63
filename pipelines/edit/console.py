"""What the editing commands print: asked against achieved, and every slider there is.

Path: `edit.py`, `edit_clip.py` -> EditReport -> show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.edit.config import Engine
from rigface.edits import MAX_DEGREES, NAMED_EXPRESSIONS, EditSpec
from rigface.errors import PlanError

LEARNT_MM = 0.3  # axes that move less were not seen when the head was built

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rigface.editor import Editor
    from rigface.evaluation.estimator import Number
    from rigface.types import FaceParams

    Rows = list[tuple[str, float, Number]]


@dataclass(frozen=True, eq=False)
class EditReport:
    """What a job has to say.

    Args:
        out: the file written.
        rows: one list per face: the name of a number, what it was, and what was asked and achieved (NaN: nobody was seen).
        frames: written; 1 for a picture.
        seconds: the whole job took.
        notes: what the user should know.
    """

    out: Path
    rows: list[Rows]
    frames: int = 1
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def show(outcome: EditReport, console: Console | None = None) -> int:
    """Print what became of a job.

    Returns:
        0.
    """
    from rich.console import Console

    console = console or Console()
    for number, rows in enumerate(outcome.rows):
        if rows:
            title = f"face {number}" if len(outcome.rows) > 1 else None
            console.print(table_of(rows, title))
    for note in outcome.notes:
        console.print(note, style="dim", markup=False, highlight=False)
    frames = f"{outcome.frames} frames, " if outcome.frames > 1 else ""
    console.print(f"{outcome.out}  ({frames}{outcome.seconds:.1f} s)", markup=False, highlight=False, soft_wrap=True)
    return 0


def table_of(rows: Rows, title: str | None = None) -> Table:
    """Asked against achieved, number by number."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in ("", "was", "asked", "achieved", "off by"):
        table.add_column(column, justify="right" if column else "left")
    for name, was, number in rows:
        off = abs(number.achieved - number.asked)
        fine = off <= (5 if number.unit == "degrees" else 0.15)
        words = [_said(v, number.unit) for v in (was, number.asked, number.achieved)]
        style = "yellow" if not fine else ""
        table.add_row(name.replace("_deg", ""), *words, Text(_said(off, number.unit), style=style))
    return table


def _said(value: float, unit: str) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}°" if unit == "degrees" else f"{value:.2f}"


def slider_tables() -> list[Table]:
    """The tables of `rigface sliders`."""
    from rich.table import Table

    from rigface.face.head.open_head import OpenHead

    numbers = Table(title="pose and light", title_justify="left")
    for column in ("flag", "range", "meaning"):
        numbers.add_column(column)
    meaning = {"yaw": "positive: to the viewer's right", "pitch": "positive: down", "roll": "positive: clockwise"}
    for name, limit in MAX_DEGREES.items():
        flag = name.removesuffix("_deg")
        numbers.add_row(f"--{flag}", f"-{limit:g} .. {limit:g} degrees", meaning[flag])
    for flag, reach, said in (
        ("azimuth", "-180 .. 180 degrees", "0 behind the camera, positive on the viewer's right"),
        ("elevation", "-90 .. 90 degrees", "positive: above"),
        ("intensity", "0 .. 10", "of the lamp; 1 is the light that is there"),
        ("ambient", "0 .. 10", "of the even light around it"),
        ("colour", "0 .. 4 each", "red, green, blue; 1 1 1 is the light's own white"),
    ):
        numbers.add_row(f"--light-{flag}", reach, said)
    named = Table(title="named expressions, -1 .. 2, 1 in full", title_justify="left")
    named.add_column("flag")
    named.add_column("made of")
    for name, axes in NAMED_EXPRESSIONS.items():
        named.add_row(f"--{name.replace('_', '-')}", ", ".join(a if v == 1 else f"{v:g} {a}" for a, v in axes.items()))
    head = OpenHead.load()
    reach = np.linalg.norm(head.expression, axis=2).max(1) * 1000
    plain = Table(title="axes of the open head, -1 .. 2: --expression NAME=VALUE ...", title_justify="left")
    for column in ("name", "moves by") * 2:
        plain.add_column(column, justify="right" if column == "moves by" else "left", no_wrap=True)
    cells = [
        (name, f"{mm:.0f} mm" if mm > LEARNT_MM else "hardly") for name, mm in zip(head.spec.expression_names, reach)
    ]
    half = (len(cells) + 1) // 2
    for left, right in zip_longest(cells[:half], cells[half:], fillvalue=("", "")):
        plain.add_row(*left, *right)
    return [numbers, named, plain]


def flame_table(folder: Path) -> Table:
    """The table of `rigface sliders --head`: how far FLAME goes with each of the open head's names.

    Raises:
        PlanError: the folder's files are not FLAME's, or do not fit each other. MissingAsset, UnsafeFile: as `flame.load`.
    """
    from rich.table import Table

    from rigface.face.controls.blendshape_transfer import fit_named_axes
    from rigface.face.head import flame
    from rigface.face.head.open_head import OpenHead

    try:
        named = fit_named_axes(flame.load_flame(folder))
    except ValueError as e:
        raise PlanError(f"--head: {folder}: {e}") from None
    moves = np.linalg.norm(OpenHead.load().expression, axis=2).max(1) * 1000
    table = Table(title="the open head's names on this FLAME", title_justify="left")
    for column in ("name", "follows", "jaw"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for name, mm, reached, jaw in zip(named.names, moves, named.reached, named.jaw):
        follows = f"{100 * reached:.0f} %" if mm > LEARNT_MM else "hardly moves"
        table.add_row(name, follows, _said(math.degrees(float(np.linalg.norm(jaw))), "degrees"))
    return table


MOST_COPIED = 8  # axes of a copied expression that the table shows


LOOK_CLOSER = ". Is it small, or seen from behind? --small-faces looks closer"


def hints(engine: Engine, editor: Editor) -> tuple[str, ...]:
    """What the user may want to know about what edited, where they did not say it themselves."""
    if engine.checkpoint is not None:
        return ()
    if editor.has_model:
        return ("made by mini; --checkpoint preview is faster, --checkpoint FOLDER paints with weights of yours",)
    return ("made by the preview, as mini is not here; --checkpoint FOLDER paints with a model",)


def comparison_rows(
    source: FaceParams, wanted: FaceParams, found: FaceParams | None, spec: EditSpec, editor: Editor
) -> Rows:
    """Name, what it was, and what was asked and achieved, for each number that the edit is about.

    Of an expression that was copied, the few axes that changed most.
    """
    from rigface.evaluation.estimator import achieved
    from rigface.face.controls.transfer import axes_of, exposure

    is_relative = spec.light is None or spec.light.relative
    unit = exposure(source.light) if is_relative else 1.0
    head = editor.analyzer.head
    was = {name: number.asked for name, number in achieved(source, None, head, spec, unit).items()}
    rows: Rows = []
    for name, number in achieved(wanted, found, head, spec, unit).items():
        own = was.get(name)
        if own is None:
            axes = axes_of(name.removeprefix("expression."), head)
            shares = np.array(list(axes.values()))
            own = float(source.expression[[head.expression_names.index(a) for a in axes]] @ shares / (shares @ shares))
        rows.append((name, own, number))
    asked = {f"expression.{name}" for name in spec.expression}
    copied = [row for row in rows if row[0].startswith("expression.") and row[0] not in asked]
    copied.sort(key=lambda row: -abs(row[2].asked - row[1]))
    return [row for row in rows if row not in copied] + copied[:MOST_COPIED]
