"""The pictures of an evaluation as HTML: what was given, what was wanted, and what each model made of it, numbers below.

Path: rows with their pictures -> `gallery` -> the top of card.html. Which tasks are shown depends on the plan alone, never
on how they came out.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from rigface.evaluation.baselines import CONTROLS, COPY_SOURCE, COPY_TARGET

Row = dict[str, Any]
Words = Callable[[Row], str]
TRAITS = ("pose", "expression", "light")


def gallery(rows: Sequence[Row], shown: int) -> str:
    """Figures of the first tasks of each kind; a sweep and a clip count as one."""
    rows = [row for row in rows if not row["seed"]]
    models = [m for m in dict.fromkeys(row["model"] for row in rows) if m not in CONTROLS]
    out = []
    for edit in dict.fromkeys(row["edit"] for row in rows):
        own = [row for row in rows if row["edit"] == edit]
        if own[0]["sweep"] is not None:
            out.append(_strips(edit, own, models, "sweep", max(1, shown // 8), _swept))
        elif own[0]["clip"] is not None:
            out.append(_strips(edit, own, models, "clip", max(1, shown // 8), _timed))
        else:
            out.append(_tasks(edit, own, models, shown))
    return "".join(out)


def _tasks(edit: str, rows: Sequence[Row], models: Sequence[str], shown: int) -> str:
    """A group per task: source, what was wanted, each model."""
    at = {(row["model"], row["key"]): row for row in rows}
    keys = list(dict.fromkeys(row["key"] for row in rows))[:shown]
    wanted = "true frame" if any(_known(row, "truth_distance") for row in rows) else "whose trait"
    groups = []
    for key in keys:
        cells = [_cell(at.get((COPY_SOURCE, key)), "source"), _cell(at.get((COPY_TARGET, key)), wanted)]
        cells += [_cell(row := at.get((m, key)), m, "" if row is None else _numbers(row)) for m in models]
        groups.append(f"<div class=task>{''.join(cells)}</div>")
    return _section(edit, f"<div class=flow>{''.join(groups)}</div>")


def _strips(edit: str, rows: Sequence[Row], models: Sequence[str], by: str, shown: int, words: Words) -> str:
    """A strip per sweep or clip and model; a clip's own frames above them."""
    out = []
    for name in list(dict.fromkeys(row[by] for row in rows))[:shown]:
        own = [row for row in rows if row[by] == name]
        lines = [(COPY_TARGET, "driving")] if by == "clip" else []
        for model, label in [*lines, *((m, m) for m in models)]:
            strip = [row for row in own if row["model"] == model]
            cells = [_cell(row, label if not k else "", words(row)) for k, row in enumerate(strip)]
            out.append(f"<div class='task strip'>{''.join(cells)}</div>")
    return _section(edit, "".join(out))


def _section(edit: str, inside: str) -> str:
    return f"<details open><summary>{escape(edit)}</summary>{inside}</details>"


def _cell(row: Row | None, label: str, words: str = "") -> str:
    """One picture with a label above and words below."""
    name = f"<figcaption>{escape(label) or '&nbsp;'}</figcaption>"
    if row is None or not row.get("picture"):
        return f"<figure>{name}<div class=none>no picture</div></figure>"
    data = base64.b64encode(row["picture"]).decode()
    if row["status"] == "no_face":
        words = "<b>no face found</b>"
    alt = escape(f"{row['model']}, {row['edit']}")
    return f"<figure>{name}<img loading=lazy alt='{alt}' src='data:image/jpeg;base64,{data}'><small>{words}</small></figure>"


def _numbers(row: Row) -> str:
    """Gains of the traits asked, and how near the picture came to the true one."""
    gains = []
    for trait in TRAITS:
        before, after = row.get(f"before_{trait}"), row.get(f"after_{trait}")
        if trait in row["traits"].split("+") and before and after is not None and math.isfinite(after):
            gains.append(f"{trait} {1 - after / before:.2f}")
    rest = [f"{row['psnr']:.1f} dB"] if _known(row, "psnr") else []
    face = "truth_distance" if _known(row, "truth_distance") else "identity_distance"
    rest += [f"face {row[face]:.2f}"] if _known(row, face) else []
    return "<br>".join(line for line in ("<br>".join(gains), " · ".join(rest)) if line)


def _swept(row: Row) -> str:
    unit = "°" if row["number"].endswith("_deg") else ""
    digits = 0 if unit else 2
    got = f"{row['achieved']:.{digits}f}{unit}" if _known(row, "achieved") else "–"
    asked = f"{row['asked']:.{digits}f}{unit}" if _known(row, "asked") else "–"
    return f"{asked} → {got}"


def _timed(row: Row) -> str:
    return f"{row['time_s']:.1f} s"


def _known(row: Row, name: str) -> bool:
    value = row.get(name)
    return value is not None and math.isfinite(value)
