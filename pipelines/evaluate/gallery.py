"""Pictures of an evaluation: source, wanted result and the result of each model, with numbers below.

Path: rows with their pictures -> `groups` -> `templates/top.html`, the top of card.html. The plan alone
decides which tasks are shown, never their results.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rigface.evaluation.baselines import CONTROLS, COPY_SOURCE, COPY_TARGET

Row = dict[str, Any]
TRAITS = ("pose", "expression", "light")


class Cell(NamedTuple):
    """One picture, with a label above and words below."""

    row: Row | None
    label: str
    words: str = ""


class Group(NamedTuple):
    """The pictures of one edit: a list of cells per task, sweep or clip."""

    edit: str
    strips: list[list[Cell]]
    is_sequence: bool


def groups(rows: Sequence[Row], shown: int) -> list[Group]:
    """Pictures of the first tasks of each edit; a sweep and a clip count as one."""
    rows = [row for row in rows if not row["seed"]]
    models = [m for m in dict.fromkeys(row["model"] for row in rows) if m not in CONTROLS]
    edits = []
    for edit in dict.fromkeys(row["edit"] for row in rows):
        own = [row for row in rows if row["edit"] == edit]
        sequences = max(1, shown // 8)
        if own[0]["sweep"] is not None:
            edits.append(Group(edit, _sequences(own, models, "sweep", sequences, _asked_and_achieved), True))
        elif own[0]["clip"] is not None:
            edits.append(Group(edit, _sequences(own, models, "clip", sequences, _time), True))
        else:
            edits.append(Group(edit, _tasks(own, models, shown), False))
    return edits


def _tasks(rows: Sequence[Row], models: Sequence[str], shown: int) -> list[list[Cell]]:
    """Per task: source, wanted result, each model."""
    at = {(row["model"], row["key"]): row for row in rows}
    wanted = "true frame" if any(_is_known(row, "truth_distance") for row in rows) else "target"
    return [
        [
            Cell(at.get((COPY_SOURCE, key)), "source"),
            Cell(at.get((COPY_TARGET, key)), wanted),
            *(Cell(row := at.get((model, key)), model, _numbers(row) if row else "") for model in models),
        ]
        for key in list(dict.fromkeys(row["key"] for row in rows))[:shown]
    ]


def _sequences(
    rows: Sequence[Row], models: Sequence[str], by: str, shown: int, words: Callable[[Row], str]
) -> list[list[Cell]]:
    """Per sweep or clip a strip of each model; a clip's own frames above them."""
    strips = []
    labels = ({COPY_TARGET: "driving"} if by == "clip" else {}) | {model: model for model in models}
    for name in list(dict.fromkeys(row[by] for row in rows))[:shown]:
        for model, label in labels.items():
            strip = [row for row in rows if row[by] == name and row["model"] == model]
            strips.append([Cell(row, "" if k else label, words(row)) for k, row in enumerate(strip)])
    return strips


def _numbers(row: Row) -> str:
    """Gain of each edited trait, PSNR and face distance, on lines of their own."""
    gains = []
    for trait in TRAITS:
        before, after = row.get(f"before_{trait}"), row.get(f"after_{trait}")
        if trait in row["traits"].split("+") and before and after is not None and math.isfinite(after):
            gains.append(f"{trait} {1 - after / before:.2f}")
    rest = [f"{row['psnr']:.1f} dB"] if _is_known(row, "psnr") else []
    face = "truth_distance" if _is_known(row, "truth_distance") else "identity_distance"
    rest += [f"face {row[face]:.2f}"] if _is_known(row, face) else []
    return "\n".join([*gains, *([" · ".join(rest)] if rest else [])])


def _asked_and_achieved(row: Row) -> str:
    unit, digits = ("°", 0) if row["number"].endswith("_deg") else ("", 2)
    asked, achieved = (
        f"{row[name]:.{digits}f}{unit}" if _is_known(row, name) else "–" for name in ("asked", "achieved")
    )
    return f"{asked} → {achieved}"


def _time(row: Row) -> str:
    return f"{row['time_s']:.1f} s"


def _is_known(row: Row, name: str) -> bool:
    value = row.get(name)
    return value is not None and math.isfinite(value)
