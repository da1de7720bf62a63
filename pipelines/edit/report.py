"""Report of an edit: the table of asked against achieved, and hints.

Path: `job.py`, `video.py` -> EditReport -> `show`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.edit.config import AnimateConfig, EditConfig, Engine
from rigface.editor import Editor, usual_checkpoint
from rigface.edits import EditSpec, EditWarning
from rigface.evaluation.estimator import Number, achieved
from rigface.face.controls.transfer import exposure, expression_amount
from rigface.face.detection.mediapipe import MAX_FACES
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.types import Face, FaceParams

MAX_RESIDUAL = 0.018  # of landmarks and fitted head; faces of people are below it, profiles included
MAX_COPIED = 8  # axes of a copied expression that the table shows


class ComparisonRow(NamedTuple):
    """One number of an edit: its value in the source, and what was asked and achieved (NaN: no face found)."""

    name: str
    before: float
    number: Number


@dataclass(frozen=True, eq=False)
class EditReport:
    """Result of an editing job."""

    out: Path
    rows: list[list[ComparisonRow]]  # a list per face
    frames: int = 1
    seconds: float = 0.0
    notes: tuple[str, ...] = ()  # hints for the user
    faces: tuple[int, ...] = ()  # number of each face, counted from the left; empty: in the order of the lists


def show(report: EditReport, console: Console | None = None) -> None:
    console = console or Console()
    for number, rows in zip(report.faces or range(len(report.rows)), report.rows):
        if rows:
            console.print(comparison_table(rows, f"face {number}" if len(report.rows) > 1 else None))
    for note in report.notes:
        console.print(note, style="dim", markup=False, highlight=False)
    frames = f"{report.frames} frames, " if report.frames > 1 else ""
    console.print(f"{report.out}  ({frames}{report.seconds:.1f} s)", markup=False, highlight=False, soft_wrap=True)


def comparison_table(rows: list[ComparisonRow], title: str | None = None) -> Table:
    """Asked against achieved, number by number; large differences are yellow."""
    table = Table(title=title, title_justify="left")
    for column in ("", "was", "asked", "achieved", "off by"):
        table.add_column(column, justify="right" if column else "left")
    for name, before, number in rows:
        difference = abs(number.achieved - number.asked)
        style = "" if difference <= (5 if number.unit == "degrees" else 0.15) else "yellow"
        values = [format_value(value, number.unit) for value in (before, number.asked, number.achieved)]
        table.add_row(name.replace("_deg", ""), *values, Text(format_value(difference, number.unit), style=style))
    return table


def format_value(value: float, unit: str) -> str:
    """`12.0°` or `0.50`; `-` for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.1f}°" if unit == "degrees" else f"{value:.2f}"


def hints(engine: Engine, editor: Editor) -> tuple[str, ...]:
    """The editor that was used and its alternatives, if the user did not choose it."""
    if engine.checkpoint is not None:
        return ()
    if editor.has_model:
        return (
            f"edited by {usual_checkpoint()}; --checkpoint preview is faster, --checkpoint FOLDER uses other weights",
        )
    return ("edited by the preview: no weights are installed; --checkpoint FOLDER uses a model",)


def limit_note(config: EditConfig | AnimateConfig, faces: int) -> tuple[str, ...]:
    """A hint that the image may show more faces than the detector returns at once."""
    if config.face != "all" or config.engine.small_faces or faces < MAX_FACES:
        return ()
    return (f"edited {faces} faces, the most that are found at once; --small-faces searches for more",)


def fit_notes(faces: Sequence[Face], numbers: Sequence[int] = ()) -> tuple[str, ...]:
    """Hints at faces that lie on their side, and at those that the head model fits badly."""
    notes = []
    for number, face in zip(numbers or range(len(faces)), faces):
        name = f"face {number}" if len(faces) > 1 else "the face"
        roll = float(to_degrees(to_matrix(face.params.head_rotation[None]))[0, 2])
        if abs(roll) > 45:
            notes.append(f"{name} is rolled by {roll:.0f} degrees; turn the picture if it lies wrong")
        if face.residual > MAX_RESIDUAL:
            off = f"landmarks are off by {face.residual:.1%} of the eyes' distance"
            notes.append(f"{name} is fitted badly ({off}): the edit may be distorted")
    return tuple(notes)


def warning_notes(warnings: Sequence[Sequence[EditWarning]], numbers: Sequence[int] = ()) -> tuple[str, ...]:
    """A line for each warning, with the ranges that would hold."""
    notes = []
    for number, found in zip(numbers or range(len(warnings)), warnings):
        for warning in found:
            ranges = [f"{name.removesuffix('_deg')} {low:g} to {high:g}" for name, (low, high) in warning.holds.items()]
            about = f"face {number}: " if len(warnings) > 1 else ""
            notes.append(f"{about}{warning.text}" + (f" It would hold for {', '.join(ranges)}." if ranges else ""))
    return tuple(notes)


def missing_note(achieved: Sequence[FaceParams | None]) -> tuple[str, ...]:
    """A hint if a face of the result was not found, so that nothing could be measured on it."""
    if None not in achieved:
        return ()
    return ("no face was found in the result, so there is nothing achieved; are these the right weights?",)


def comparison_rows(
    source: FaceParams, wanted: FaceParams, found: FaceParams | None, spec: EditSpec, editor: Editor
) -> list[ComparisonRow]:
    """A row for each number of an edit; of a copied expression, the axes that changed most."""
    is_relative = spec.light is None or spec.light.relative
    unit = exposure(source.light) if is_relative else 1.0
    head = editor.analyzer.head
    was = {name: number.asked for name, number in achieved(source, None, head, spec, unit).items()}
    rows = []
    for name, number in achieved(wanted, found, head, spec, unit, source).items():
        before = was.get(name)
        if before is None:
            before = expression_amount(source, name.removeprefix("expression."), head)
        rows.append(ComparisonRow(name, before, number))
    asked = {f"expression.{name}" for name in spec.expression}
    copied = [row for row in rows if row.name.startswith("expression.") and row.name not in asked]
    copied.sort(key=lambda row: -abs(row.number.asked - row.before))
    return [row for row in rows if row not in copied] + copied[:MAX_COPIED]
