"""Tables of `rigface sliders`: the numbers an edit can have, and how closely FLAME follows them."""

import math
from itertools import zip_longest
from pathlib import Path

import numpy as np
from rich.table import Table

from rigface.edits import MAX_DEGREES, NAMED_EXPRESSIONS
from rigface.errors import PlanError
from rigface.face.head.open_head import OpenHead

MIN_MOTION_MM = 0.3  # axes that move less are absent from the data of the head
POSE = {"yaw": "positive: to the viewer's right", "pitch": "positive: down", "roll": "positive: clockwise"}
LIGHT = (
    ("azimuth", "-180 .. 180 degrees", "0 behind the camera, positive on the viewer's right"),
    ("elevation", "-90 .. 90 degrees", "positive: above"),
    ("intensity", "0 .. 10", "of the lamp; 1 is the present light"),
    ("ambient", "0 .. 10", "of the even light around it"),
    ("colour", "0 .. 4 each", "red, green, blue; 1 1 1 is the white of the present light"),
)


def slider_tables() -> list[Table]:
    """Pose and light, the named expressions, and the axes of the open head."""
    numbers = Table("flag", "range", "meaning", title="pose and light", title_justify="left")
    for flag, meaning in POSE.items():
        limit = MAX_DEGREES[f"{flag}_deg"]
        numbers.add_row(f"--{flag}", f"-{limit:g} .. {limit:g} degrees", meaning)
    for flag, span, meaning in LIGHT:
        numbers.add_row(f"--light-{flag}", span, meaning)
    named = Table("flag", "axes", title="named expressions, -1 .. 2; 1 is full strength", title_justify="left")
    for name, axes in NAMED_EXPRESSIONS.items():
        named.add_row(f"--{name.replace('_', '-')}", ", ".join(a if v == 1 else f"{v:g} {a}" for a, v in axes.items()))
    plain = Table(title="axes of the open head, -1 .. 2: --expression NAME=VALUE ...", title_justify="left")
    for column in ("name", "moves by") * 2:
        plain.add_column(column, justify="right" if column == "moves by" else "left", no_wrap=True)
    head = OpenHead.load()
    cells = [
        (name, f"{mm:.0f} mm" if mm > MIN_MOTION_MM else "hardly")
        for name, mm in zip(head.spec.expression_names, _motion_mm(head))
    ]
    half = (len(cells) + 1) // 2
    for left, right in zip_longest(cells[:half], cells[half:], fillvalue=("", "")):
        plain.add_row(*left, *right)
    return [numbers, named, plain]


def flame_table(folder: Path) -> Table:
    """Table of how closely FLAME follows each axis of the open head; raises PlanError, or as `load_flame`."""
    from rigface.face.controls.blendshape_transfer import fit_named_axes  # both import torch
    from rigface.face.head.flame import load_flame

    try:
        named = fit_named_axes(load_flame(folder))
    except ValueError as e:
        raise PlanError(f"--head: {folder}: {e}") from None
    table = Table(title="axes of the open head on this FLAME", title_justify="left")
    for column in ("name", "follows", "jaw"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for name, mm, share, jaw in zip(named.names, _motion_mm(OpenHead.load()), named.reached, named.jaw):
        follows = f"{100 * share:.0f} %" if mm > MIN_MOTION_MM else "hardly moves"
        table.add_row(name, follows, f"{math.degrees(float(np.linalg.norm(jaw))):.1f}°")
    return table


def _motion_mm(head: OpenHead) -> np.ndarray:
    """Largest motion of any vertex along each axis."""
    return np.linalg.norm(head.expression, axis=2).max(1) * 1000
