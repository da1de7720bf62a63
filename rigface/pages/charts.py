"""Charts of all pages as inline SVG; colours come from `base.css`, so that dark and light both work.

Each shape has a `<title>` with its exact numbers (shown on hover), each chart a name and a caption for screen
readers. No style attributes: the pages' security policy forbids them.

Conventions: user units are CSS px at the width of a card (`WIDTH`); x right, y down.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, cos, floor, log10, radians, sin, sqrt
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from rigface.pages.environment import printable

WIDTH = 360
_LEFT, _RIGHT = 36, 6
_LABEL = 118  # width of the name column of bar rows
_MAX_POINTS = 400  # of a drawn line
_COMPASS = ("right", "above right", "above", "above left", "left", "below left", "below", "below right")


class Bar(NamedTuple):
    """One row of a bar chart."""

    label: str
    value: float
    text: str
    hint: str
    note: str = ""
    swatch: str = ""  # an sRGB colour like #a0704f, drawn before the name
    face: str = ""  # a small picture as a data URI, drawn before the name


class Axis(NamedTuple):
    """A horizontal axis: its title, and (value, text) of its ticks."""

    title: str
    ticks: Sequence[tuple[float, str]]


class Mark(NamedTuple):
    """A threshold drawn across a histogram."""

    value: float
    text: str


def share(part: float, whole: float) -> str:
    """A percentage: `12 %`, `0.4 %`, `< 0.1 %`, `0 %`."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if percent < 10 and round(percent, 1) % 1 else f"{percent:.0f} %"


def histogram(
    name: str,
    edges: np.ndarray,
    counts: np.ndarray,
    axis: Axis,
    caption: str,
    *,
    median: float,
    marks: Sequence[Mark] = (),
    fmt: str = "g",
) -> Markup:
    """Columns of one number, with thresholds; `fmt` is that of the edges in the hints.

    All bins are equally wide on the page, so logarithmic edges give a logarithmic axis.
    """
    top, height, bins, whole = 12, 116, len(counts), max(int(counts.sum()), 1)
    high = 100 * counts.max(initial=0) / whole
    step = _round_step(max(high, 1) / 3)
    high = step * max(ceil(high / step - 1e-9), 1)
    width = (WIDTH - _LEFT - _RIGHT) / bins

    def across(value: float) -> float:
        return _LEFT + width * float(np.interp(value, edges, np.arange(bins + 1)))

    parts = []
    for percent in np.arange(0, high + step / 2, step):
        y = top + height * (1 - percent / high)
        parts.append(_line(_LEFT, y, WIDTH - _RIGHT, y, "grid" if percent else "axis"))
        parts.append(_text(_LEFT - 6, y + 3.5, f"{percent:g} %", "tick end"))
    for i, count in enumerate(counts.tolist()):
        if count:
            tall = max(height * 100 * count / whole / high, 1)
            hint = f"{edges[i]:{fmt}} to {edges[i + 1]:{fmt}}: {count:,} ({share(count, whole)})"
            parts.append(_rect(_LEFT + i * width + 0.5, top + height - tall, width - 1, tall, "bar", hint))
    for mark in marks:
        parts.append(_line(across(mark.value), top - 4, across(mark.value), top + height, "mark"))
        parts.append(_text(across(mark.value) - 4, top + 5, mark.text, "tick end"))
    arrow = f"M{across(median):.1f} {top + height + 1}l4 6h-8z"
    parts.append(_element("path", hint=f"median {median:{fmt}}", class_="median", d=arrow))
    parts += [_text(across(value), top + height + 20, text, "tick middle") for value, text in axis.ticks]
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, top + height + 38, axis.title, "title middle"))
    return _svg(name, caption, top + height + 44, parts)


def pose(grid: np.ndarray, pitch_edges: np.ndarray, yaw_edges: np.ndarray, caption: str) -> Markup:
    """Head directions as seen in the picture: (pitch, yaw) counts, yaw across, pitch down, sums along the edges."""
    rows, columns = grid.shape
    margin, left = 34, _LEFT + 16
    cell = (WIDTH - left - margin - 6) / columns
    top = margin + 6
    wide, high, whole, peak = cell * columns, cell * rows, max(int(grid.sum()), 1), max(int(grid.max(initial=0)), 1)
    parts = [_element("rect", class_="plate", x=left, y=top, width=wide, height=high, rx=3)]
    for value in (-60, -30, 0, 30, 60):
        x = left + cell * float(np.interp(value, yaw_edges, np.arange(columns + 1)))
        parts.append(_line(x, top, x, top + high, "grid" if value else "axis"))
        parts.append(_text(x, top + high + 15, _signed(value), "tick middle"))
    for value in (-30, 0, 30):
        y = top + cell * float(np.interp(value, pitch_edges, np.arange(rows + 1)))
        parts.append(_line(left, y, left + wide, y, "grid" if value else "axis"))
        parts.append(_text(left - 6, y + 3.5, _signed(value), "tick end"))

    def hint(words: str, count: int) -> str:
        return f"{words}: {count:,} ({share(count, whole)})"

    yaws = [f"yaw {low:.0f} to {high:.0f}°" for low, high in pairwise(yaw_edges)]
    pitches = [f"pitch {low:.0f} to {high:.0f}°" for low, high in pairwise(pitch_edges)]
    for r, c in zip(*np.nonzero(grid)):
        words, ink = hint(f"{yaws[c]}, {pitches[r]}", int(grid[r, c])), _opacity(int(grid[r, c]) / peak)
        parts.append(_rect(left + c * cell, top + r * cell, cell, cell, "heat", words, ink))
    for names, sums in ((yaws, grid.sum(axis=0)), (pitches, grid.sum(axis=1))):
        for k in np.flatnonzero(sums):
            tall, along = max((margin - 2) * sums[k] / sums.max(), 1), k * cell + 0.4
            box = (left + along, top - 4 - tall, cell - 0.8, tall)
            if names is pitches:
                box = (left + wide + 4, top + along, tall, cell - 0.8)
            parts.append(_rect(*box, "bar", hint(names[k], sums[k])))
    parts.append(_text(left + wide / 2, top + high + 33, "yaw: to the left ← → right of the picture", "title middle"))
    turn = f"rotate(-90 11 {top + high / 2:.1f})"
    parts.append(_text(11, top + high / 2, "pitch: down ← → up", "title middle", transform=turn))
    return _svg("Head pose", caption, top + high + 40, parts)


def light(cells: np.ndarray, rings_deg: np.ndarray, caption: str) -> Markup:
    """Light directions: the centre is the camera, the rim the side (90 degrees), up is above.

    `cells` are (rings, sectors) counts; sectors run counter-clockwise from the right of the picture.
    """
    radius, x0, y0 = 106.0, WIDTH / 2, 132.0
    sectors, whole = cells.shape[1], max(int(cells.sum()), 1)
    rings = rings_deg / rings_deg[-1] * radius
    area = (rings[1:] ** 2 - rings[:-1] ** 2)[:, None] / sectors
    density = cells / area
    density[0] = cells[0].sum() / sectors / area[0]
    peak = max(float(density.max(initial=0)), 1e-9)
    parts = [_element("circle", class_="plate", cx=x0, cy=y0, r=radius)]
    if inner := int(cells[0].sum()):
        hint = f"within {rings_deg[1]:.0f}° of the camera: {inner:,} ({share(inner, whole)})"
        ink = _opacity(float(density[0, 0]) / peak)
        parts.append(_element("circle", hint=hint, class_="heat", cx=x0, cy=y0, r=rings[1], fill_opacity=ink))
    for ring, sector in zip(*np.nonzero(cells)):
        if ring:
            start, stop = 360 / sectors * sector, 360 / sectors * (sector + 1)
            count = int(cells[ring, sector])
            span = f"{rings_deg[ring]:.0f} to {rings_deg[ring + 1]:.0f}° off the camera"
            hint = f"from {_COMPASS[round((start + stop) / 90) % 8]}, {span}: {count:,} ({share(count, whole)})"
            path, ink = _wedge(x0, y0, rings[ring], rings[ring + 1], start, stop), density[ring, sector] / peak
            parts.append(_element("path", hint=hint, class_="heat", d=path, fill_opacity=_opacity(float(ink))))
    for degrees in (30, 60, 90):
        r = degrees / rings_deg[-1] * radius
        parts.append(_element("circle", class_="axis" if degrees == 90 else "grid", cx=x0, cy=y0, r=r))
        parts.append(_text(x0 + r * cos(radians(45)) + 3, y0 + r * sin(radians(45)) + 8, f"{degrees}°", "tick"))
    parts.append(_line(x0 - radius, y0, x0 + radius, y0, "grid"))
    parts.append(_line(x0, y0 - radius, x0, y0 + radius, "grid"))
    for x, y, text, anchor in (
        (x0, y0 - radius - 8, "from above", "middle"), (x0, y0 + radius + 16, "from below", "middle"),
        (x0 - radius - 8, y0 + 3.5, "left", "end"), (x0 + radius + 8, y0 + 3.5, "right", ""),
    ):  # fmt: skip
        parts.append(_text(x, y, text, f"title {anchor}"))
    return _svg("Light direction", caption, 264, parts)


def bars(name: str, rows: Sequence[Bar], caption: str, *, row_px: int = 26) -> Markup:
    """Horizontal bars with their names on the left and their numbers on the right."""
    peak = max((row.value for row in rows), default=0) or 1
    room = WIDTH - _LABEL - 8 - 6.2 * max((len(row.text) for row in rows), default=0)
    parts = []
    for i, row in enumerate(rows):
        middle = row_px * i + row_px / 2
        x = 26 if row.swatch else row_px + 6 if row.face else 0
        if row.swatch:
            parts.append(_element("circle", class_="swatch", cx=8, cy=middle, r=8, fill=row.swatch))
        if row.face:
            side, top = row_px - 2, middle - row_px / 2 + 1
            parts.append(_element("image", href=row.face, x=0, y=top, width=side, height=side))
        shown = _shortened(row.label, (_LABEL - x - 8) / 6.3)
        hidden = row.label if shown != row.label else ""
        parts.append(_text(x, middle + (-2 if row.note else 4), shown, "name", hint=hidden))
        if row.note:
            parts.append(_text(x, middle + 11, row.note, "tick"))
        parts.append(_rect(_LABEL, middle - 5, room, 10, "plate round"))
        if row.value:
            parts.append(_rect(_LABEL, middle - 5, max(room * row.value / peak, 1.5), 10, "bar round", row.hint))
        parts.append(_text(WIDTH, middle + 4, row.text, "name end"))
    return _svg(name, caption, row_px * max(len(rows), 1), parts)


def ranges(name: str, rows: Sequence[tuple[str, Sequence[float]]], unit: str, caption: str) -> Markup:
    """Per name and its 5, 25, 50, 75, 95 % quantiles: the middle half (thick), 5 to 95 % (thin), the median (dot)."""
    values = [value for _, quantiles in rows for value in quantiles]
    low, high = min([0.0, *values]), max([0.1, *values])
    step = _round_step((high - low) / 4)
    low, high = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    row_px, left = 21, _LABEL + 10
    room, bottom = WIDTH - left - 10, row_px * max(len(rows), 1) + 4

    def across(value: float) -> float:
        return left + room * (value - low) / (high - low)

    parts = []
    for value in np.arange(low, high + step / 2, step):
        is_zero = abs(value) < step / 2
        parts.append(_line(across(value), 0, across(value), bottom, "axis" if is_zero else "grid"))
        parts.append(_text(across(value), bottom + 15, f"{0.0 if is_zero else value:g}", "tick middle"))
    for i, (label, (p5, p25, p50, p75, p95)) in enumerate(rows):
        y = row_px * i + row_px / 2 + 2
        hint = f"{label}: median {p50:.2f}, half within {p25:.2f} to {p75:.2f}, 90 % within {p5:.2f} to {p95:.2f}"
        parts.append(_text(0, y + 4, _shortened(label, 19), "name"))
        shapes = [
            _rect(left, y - row_px / 2, room, row_px, "catch"),
            _line(across(p5), y, across(p95), y, "whisker"),
            _rect(across(p25), y - 4, max(across(p75) - across(p25), 2), 8, "bar"),
            _element("circle", class_="dot", cx=across(p50), cy=y, r=3),
        ]
        parts.append(_element("g", *shapes, hint=hint, class_="range"))
    parts.append(_text(left + room / 2, bottom + 33, unit, "title middle"))
    return _svg(name, caption, bottom + 40, parts)


def lines(name: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Curves of (step, value) points by name, at most three, none empty; the axis covers the values of all."""
    height, left = 150.0, 46
    values = [value for points in series.values() for _, value in points]
    low, high = min(values), max(values)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    last = max(step for points in series.values() for step, _ in points)

    def down(value: float) -> float:
        return height * (high + pad - value) / (high - low + 2 * pad)

    parts = []
    for value in dict.fromkeys((low, (low + high) / 2, high)):
        parts.append(_line(left, down(value), WIDTH, down(value), "grid"))
        parts.append(_text(left - 4, down(value) + 4, f"{value:.3g}", "tick end"))
    for k, points in enumerate(series.values()):
        places = (f"{left + (WIDTH - left - _RIGHT) * x / max(last, 1):.1f},{down(y):.1f}" for x, y in _thinned(points))
        parts.append(_element("polyline", class_=f"curve series-{k}", points=" ".join(places)))
    parts.append(_text(left, height + 16, "0", "tick"))
    parts.append(_text(WIDTH - _RIGHT, height + 16, f"step {last:,}", "tick end"))
    return _svg(name, "", height + 20, parts)


def sliver(part: float, whole: float) -> Markup:
    """A bar for a table cell; hidden from screen readers, as the number stands beside it."""
    wide = max(100 * part / whole if whole else 0, 0.6)
    plate, bar = (_element("rect", class_=kind, width=w, height=8) for kind, w in (("plate", 100), ("bar", wide)))
    box = {"viewBox": "0 0 100 8", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return _element("svg", plate, bar, class_="sliver", **box)


def _element(tag: str, *content: str, hint: str = "", **attributes: object) -> Markup:
    """An SVG element; text is escaped, `class_` is `class`, `fill_opacity` is `fill-opacity`, None is left out."""
    named = [
        Markup(' {}="{}"').format(
            name.rstrip("_").replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else printable(value)
        )
        for name, value in attributes.items()
        if value is not None
    ]
    start, end = Markup("<" + tag) + Markup("").join(named), Markup(f"</{tag}>")
    inside = Markup("").join(printable(part) for part in content)
    if hint:
        inside = _element("title", hint) + inside
    return start + Markup(">") + inside + end if inside else start + Markup("/>")


def _svg(name: str, caption: str, height: float, parts: Sequence[Markup]) -> Markup:
    label = f"{name}. {caption}" if caption else name
    box = {"viewBox": f"0 0 {WIDTH} {height:.0f}", "role": "img", "aria_label": label}
    return _element("svg", *parts, class_="chart", **box)


def _text(x: float, y: float, text: str, kind: str, **attributes: Any) -> Markup:
    return _element("text", text, class_=kind.strip(), x=x, y=y, **attributes)


def _rect(x: float, y: float, width: float, height: float, kind: str, hint: str = "", ink: str | None = None) -> Markup:
    return _element("rect", hint=hint, class_=kind, x=x, y=y, width=width, height=height, fill_opacity=ink)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return _element("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def _wedge(x: float, y: float, inner: float, outer: float, start: float, stop: float) -> str:
    """The outline of a piece of a ring, angles in degrees counter-clockwise from the right."""
    (a, b), (c, d) = ((cos(radians(t)), -sin(radians(t))) for t in (start, stop))
    first = f"M{x + inner * a:.1f} {y + inner * b:.1f}L{x + outer * a:.1f} {y + outer * b:.1f}"
    arc = f"A{outer:.1f} {outer:.1f} 0 0 0 {x + outer * c:.1f} {y + outer * d:.1f}"
    back = f"L{x + inner * c:.1f} {y + inner * d:.1f}A{inner:.1f} {inner:.1f} 0 0 1"
    return f"{first}{arc}{back} {x + inner * a:.1f} {y + inner * b:.1f}Z"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` points, each the mean of its neighbours."""
    size = max(1, -(-len(points) // _MAX_POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _signed(degrees: float) -> str:
    return f"{degrees:+.0f}°".replace("-", "−") if degrees else "0°"


def _opacity(part: float) -> str:
    """Opacity of a cell of a density; the root keeps rare cells visible."""
    return f"{0.1 + 0.9 * sqrt(min(part, 1)):.2f}"


def _round_step(rough: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) next above `rough`."""
    power = 10.0 ** floor(log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _shortened(text: str, letters: float) -> str:
    """The text with its middle left out if it is too long: both ends of a path tell more than its start."""
    size = int(letters)
    if len(text) <= size:
        return text
    head = (size - 1) // 3
    return f"{text[:head]}…{text[len(text) - (size - 1 - head) :]}"
