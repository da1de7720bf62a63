"""Pictures of an evaluation: best, median and worst edits, sweeps and clips, with numbers and lit balls below.

Path: rows with their pictures -> `groups` -> `templates/top.html`, the top of card.html.

The edits are ranked by the numbers of one model, the last that is no control. So the best are not typical, and the
worst are shown.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rigface.evaluation.baselines import CONTROLS, COPY_SOURCE, COPY_TARGET, TRUE_FRAME
from rigface.evaluation.metric_registry import Row, column
from rigface.image import encode_png, linear_to_srgb
from rigface.metrics.light import BALL_PX, lit_ball

TRAITS = {"pose": "pose", "expression": "expression", "light": "light_ball"}  # trait -> ending of its distances
ASKED = "asked_words"  # column of a row: what was asked, in words, below the source; only `rigface judge` fills it
RANKS = ("best", "median", "worst")
# The first that is known ranks the edits: the embedding's distance to the true face, else to the source's.
RANKED_BY = ("truth_distance", "identity_distance")


class Cell(NamedTuple):
    """One picture, with a label above and words below."""

    row: Row | None
    label: str
    words: str = ""
    balls: bytes | None = None  # PNG: a white ball in the light asked for, and in the light achieved


class Group(NamedTuple):
    """The pictures of one edit: a list of cells per task, sweep or clip."""

    edit: str
    strips: list[list[Cell]]
    is_sequence: bool


def groups(rows: Sequence[Row], shown: int) -> list[Group]:
    """Best, median and worst tasks of each edit, `shown` together; a few sweeps and clips."""
    rows = [row for row in rows if not row["seed"]]
    edits = []
    for edit in dict.fromkeys(row["edit"] for row in rows):
        own = [row for row in rows if row["edit"] == edit]
        models = [m for m in dict.fromkeys(row["model"] for row in own) if m not in CONTROLS]
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
    strips = []
    for rank, key in _ranked([row for row in rows if row["model"] == models[-1]], shown) if models else []:
        goal = at.get((TRUE_FRAME, key))
        wanted = (
            [Cell(goal, TRUE_FRAME)] if goal else [Cell(row, "target")] if (row := at.get((COPY_TARGET, key))) else []
        )
        results = [
            Cell(row := at.get((model, key)), model, _numbers(row) if row else "", _balls(row) if row else None)
            for model in models
        ]
        source = at.get((COPY_SOURCE, key))
        asked = str(source.get(ASKED) or "") if source else ""
        strips.append([Cell(source, " · ".join(filter(None, (rank, "source"))), asked), *wanted, *results])
    return strips


def _ranked(rows: Sequence[Row], shown: int) -> list[tuple[str, str]]:
    """(rank, key) of the best, the middle and the worst rows, `shown` in all; failures are worst."""
    name = next((n for n in RANKED_BY if np.isfinite(column(rows, n)).any()), RANKED_BY[-1])
    order = np.argsort(np.nan_to_num(column(rows, name), nan=math.inf), kind="stable")
    each = max(1, shown // len(RANKS))
    if len(order) <= 3 * each:
        return [("", rows[k]["key"]) for k in order]
    middle = (len(order) - each) // 2
    places = (order[:each], order[middle : middle + each], order[-each:])
    return [(rank, rows[k]["key"]) for rank, part in zip(RANKS, places) for k in part]


def _balls(row: Row) -> bytes | None:
    """PNG of a ball in the light asked for beside one in the light achieved, at one brightness; only light edits."""
    lights = [row.get("light_wanted"), row.get("light_output")]
    if "light" not in row["traits"] or any(light is None or not np.isfinite(light).all() for light in lights):
        return None
    shaded = lit_ball(np.array(lights, np.float64).reshape(2, 9, 3))
    at = (np.arange(BALL_PX) + 0.5) / BALL_PX * 2 - 1
    inside = at[None] ** 2 + at[:, None] ** 2 < 1
    picture = np.full((BALL_PX, 2 * BALL_PX, 3), 255, np.uint8)
    for k, ball in enumerate(shaded):
        values = linear_to_srgb((ball / max(float(ball.mean()) * 2, 1e-6)).clip(0, 1).astype(np.float32))
        picture[:, k * BALL_PX : (k + 1) * BALL_PX][inside] = (values * 255 + 0.5).astype(np.uint8)
    return encode_png(picture)


def _sequences(
    rows: Sequence[Row], models: Sequence[str], by: str, shown: int, words: Callable[[Row], str]
) -> list[list[Cell]]:
    """Per sweep or clip a strip of each model; a clip's own frames above them."""
    strips = []
    labels = ({TRUE_FRAME: "driving"} if by == "clip" else {}) | {model: model for model in models}
    for name in list(dict.fromkeys(row[by] for row in rows))[:shown]:
        for model, label in labels.items():
            strip = [row for row in rows if row[by] == name and row["model"] == model]
            strips.append([Cell(row, "" if k else label, words(row)) for k, row in enumerate(strip)])
    return strips


def _numbers(row: Row) -> str:
    """Gain of each edited trait, PSNR of mouth and eyes, and face distance, on lines of their own."""
    gains = []
    for trait, way in TRAITS.items():
        before, after = row.get(f"before_{way}"), row.get(f"after_{way}")
        if trait in row["traits"].split("+") and before and after is not None and math.isfinite(after):
            gains.append(f"{trait} {1 - after / before:.2f}")
    rest = [f"{row['psnr_features']:.1f} dB"] if _is_known(row, "psnr_features") else []
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
