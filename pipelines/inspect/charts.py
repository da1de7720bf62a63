"""Draw counts as inline SVG: one visual language, colours from the page's style sheet, so that dark and light both work.

Path: FaceCensus, InputCensus -> SVG text in the page. Every mark carries a <title> (its exact numbers, on hover), every
drawing a name and a sentence for those who cannot see it. No style attributes: the page's security policy forbids them.

Conventions: user units are CSS px at the width a card has on a desk and on a phone alike (`WIDTH`); x right, y down.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, cos, floor, log10, radians, sin, sqrt
from typing import NamedTuple

import numpy as np

from pipelines.inspect.statistics import (
    EXPRESSION_EDGES,
    LIGHT_RINGS_DEG,
    LIGHT_SECTORS,
    PITCH_EDGES,
    YAW_EDGES,
    Histogram,
)

WIDTH = 360
_LEFT, _RIGHT = 36, 6
_LABEL = 118  # width of the name column of bar rows


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
    """A percentage for people: `12 %`, `0.4 %`, `< 0.1 %`, `0 %`."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if percent < 10 and round(percent, 1) % 1 else f"{percent:.0f} %"


def histogram(
    name: str, counts: Histogram, axis: Axis, says: str, *, marks: Sequence[Mark] = (), fmt: str = "g", plot: int = 116
) -> str:
    """Columns of one number; all bins are equally wide on the page, so logarithmic edges give a logarithmic axis.

    Args:
        name: what is counted, for those who cannot see it.
        says: the picture in one sentence.
        marks: thresholds to draw.
        fmt: format of a bin's edges in its hint.
        plot: height of the plot, px.
    """
    top, bins = 12, len(counts.counts)
    whole = max(counts.total, 1)
    step, high = _scale(100 * counts.counts.max(initial=0) / whole)
    width = (WIDTH - _LEFT - _RIGHT) / bins

    def across(value: float) -> float:
        return _LEFT + width * float(np.interp(value, counts.edges, np.arange(bins + 1)))

    parts = []
    for percent in np.arange(0, high + step / 2, step):
        y = top + plot * (1 - percent / high)
        parts.append(
            f'<line class="{"axis" if not percent else "grid"}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT - 6, y + 3.5, f"{percent:g} %", "tick end"))
    for i, count in enumerate(counts.counts.tolist()):
        if count:
            height = max(plot * 100 * count / whole / high, 1)
            hint = f"{counts.edges[i]:{fmt}} to {counts.edges[i + 1]:{fmt}}: {count:,} ({share(count, whole)})"
            parts.append(_rect(_LEFT + i * width + 0.5, top + plot - height, width - 1, height, "bar", hint))
    for mark in marks:
        parts.append(_line(across(mark.value), top - 4, across(mark.value), top + plot, "mark"))
        parts.append(_text(across(mark.value) - 4, top + 5, mark.text, "tick end"))
    if counts.total:
        median = across(counts.quantile(0.5))
        parts.append(
            f'<path class="median" d="M{median:.1f} {top + plot + 1:.1f}l4 6h-8z"><title>median {counts.quantile(0.5):{fmt}}</title></path>'
        )
    for value, text in axis.ticks:
        parts.append(_text(across(value), top + plot + 20, text, "tick middle"))
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, top + plot + 38, axis.title, "title middle"))
    return _svg(name, says, top + plot + 44, parts)


def pose(grid: np.ndarray, says: str) -> str:
    """Where faces look, as seen in the picture: yaw across, pitch down, with the sums along the edges.

    Args:
        grid: (pitch bins, yaw bins) counts.
    """
    rows, columns = grid.shape
    margin, left = 34, _LEFT + 16
    cell = (WIDTH - left - margin - 6) / columns
    top = margin + 6
    wide, high, whole, most = cell * columns, cell * rows, max(int(grid.sum()), 1), max(int(grid.max(initial=0)), 1)
    parts = [f'<rect class="plate" x="{left}" y="{top}" width="{wide:.1f}" height="{high:.1f}" rx="3"/>']
    for value in (-60, -30, 0, 30, 60):
        x = left + cell * float(np.interp(value, YAW_EDGES, np.arange(columns + 1)))
        parts.append(_line(x, top, x, top + high, "axis" if not value else "grid"))
        parts.append(_text(x, top + high + 15, _signed(value), "tick middle"))
    for value in (-30, 0, 30):
        y = top + cell * float(np.interp(value, PITCH_EDGES, np.arange(rows + 1)))
        parts.append(_line(left, y, left + wide, y, "axis" if not value else "grid"))
        parts.append(_text(left - 6, y + 3.5, _signed(value), "tick end"))
    for r, c in zip(*np.nonzero(grid)):
        count = int(grid[r, c])
        hint = f"yaw {YAW_EDGES[c]:.0f} to {YAW_EDGES[c + 1]:.0f}°, pitch {PITCH_EDGES[r]:.0f} to {PITCH_EDGES[r + 1]:.0f}°: {count:,} ({share(count, whole)})"
        parts.append(_rect(left + c * cell, top + r * cell, cell, cell, "heat", hint, _ink(count / most)))
    parts += _margins(grid, left, top, cell, margin)
    parts.append(_text(left + wide / 2, top + high + 33, "yaw: to the left ← → right of the picture", "title middle"))
    parts.append(_text(11, top + high / 2, "pitch: down ← → up", "title middle", turned=True))
    return _svg("Head pose", says, top + high + 40, parts)


def light(cells: np.ndarray, says: str) -> str:
    """Where the light comes from: the centre is the camera, the rim the side (90 degrees), up is above.

    Args:
        cells: (rings, sectors) counts; sectors run counter-clockwise from the right of the picture.
    """
    radius, centre, middle = 106.0, WIDTH / 2, 132.0
    whole = max(int(cells.sum()), 1)
    rings = LIGHT_RINGS_DEG / LIGHT_RINGS_DEG[-1] * radius
    area = (rings[1:] ** 2 - rings[:-1] ** 2)[:, None] / LIGHT_SECTORS
    density = (
        np.where(np.arange(len(cells))[:, None] == 0, cells.sum(axis=1, keepdims=True) / LIGHT_SECTORS, cells) / area
    )
    most = max(float(density.max(initial=0)), 1e-9)
    parts = [f'<circle class="plate" cx="{centre}" cy="{middle}" r="{radius}"/>']
    inner = int(cells[0].sum())
    if inner:
        hint = f"within {LIGHT_RINGS_DEG[1]:.0f}° of the camera: {inner:,} ({share(inner, whole)})"
        parts.append(
            f'<circle class="heat" cx="{centre}" cy="{middle}" r="{rings[1]:.1f}" fill-opacity="{_ink(float(density[0, 0]) / most)}"><title>{hint}</title></circle>'
        )
    for ring, sector in zip(*np.nonzero(cells)):
        if ring:
            start, stop = 360 / LIGHT_SECTORS * sector, 360 / LIGHT_SECTORS * (sector + 1)
            count = int(cells[ring, sector])
            hint = f"{_compass((start + stop) / 2)}, {LIGHT_RINGS_DEG[ring]:.0f} to {LIGHT_RINGS_DEG[ring + 1]:.0f}° off the camera: {count:,} ({share(count, whole)})"
            path = _wedge(centre, middle, rings[ring], rings[ring + 1], start, stop)
            parts.append(
                f'<path class="heat" d="{path}" fill-opacity="{_ink(float(density[ring, sector]) / most)}"><title>{hint}</title></path>'
            )
    for degrees in (30, 60, 90):
        r = degrees / LIGHT_RINGS_DEG[-1] * radius
        parts.append(f'<circle class="{"axis" if degrees == 90 else "grid"}" cx="{centre}" cy="{middle}" r="{r:.1f}"/>')
        parts.append(_text(centre + r * cos(radians(45)) + 3, middle + r * sin(radians(45)) + 8, f"{degrees}°", "tick"))
    parts.append(_line(centre - radius, middle, centre + radius, middle, "grid"))
    parts.append(_line(centre, middle - radius, centre, middle + radius, "grid"))
    for x, y, text, place in (
        (centre, middle - radius - 8, "from above", "middle"), (centre, middle + radius + 16, "from below", "middle"),
        (centre - radius - 8, middle + 3.5, "left", "end"), (centre + radius + 8, middle + 3.5, "right", ""),
    ):  # fmt: skip
        parts.append(_text(x, y, text, f"title {place}"))
    return _svg("Light direction", says, 264, parts)


def bars(name: str, rows: Sequence[Bar], says: str, *, row_px: int = 26, label_px: int = _LABEL) -> str:
    """Horizontal bars with their names on the left and their numbers on the right."""
    most = max((row.value for row in rows), default=0) or 1
    end_px = 8 + 6.2 * max((len(row.text) for row in rows), default=0)
    room = WIDTH - label_px - end_px
    parts = []
    for i, row in enumerate(rows):
        middle = row_px * i + row_px / 2
        x = 26 if row.swatch else row_px + 6 if row.face else 0
        if row.swatch:
            parts.append(f'<circle class="swatch" cx="8" cy="{middle:.1f}" r="8" fill="{escape(row.swatch)}"/>')
        if row.face:
            parts.append(
                f'<image href="{row.face}" x="0" y="{middle - row_px / 2 + 1:.1f}" width="{row_px - 2}" height="{row_px - 2}"/>'
            )
        shown = _cut(row.label, (label_px - x - 8) / 6.3)
        parts.append(
            _text(x, middle + (-2 if row.note else 4), shown, "name", hint=row.label if shown != row.label else "")
        )
        if row.note:
            parts.append(_text(x, middle + 11, row.note, "tick"))
        parts.append(_rect(label_px, middle - 5, room, 10, "plate round", ""))
        if row.value:
            parts.append(_rect(label_px, middle - 5, max(room * row.value / most, 1.5), 10, "bar round", row.hint))
        parts.append(_text(WIDTH, middle + 4, row.text, "name end"))
    return _svg(name, says, row_px * max(len(rows), 1), parts)


def ranges(name: str, rows: Sequence[tuple[str, np.ndarray]], unit: str, says: str) -> str:
    """For each named coefficient the middle half (thick), 5 to 95 % (thin) and the median (dot).

    Args:
        rows: name and counts over `EXPRESSION_EDGES`.
        unit: title of the axis.
    """
    marks = np.array([_quantiles(counts) for _, counts in rows]) if rows else np.zeros((0, 5))
    low, high = min(marks.min(initial=0), 0), max(marks.max(initial=0), 0.1)
    step = _step((high - low) / 4)
    low, high = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    row_px, left = 21, _LABEL + 10
    room, bottom = WIDTH - left - 10, row_px * max(len(rows), 1) + 4

    def across(value: float) -> float:
        return left + room * (value - low) / (high - low)

    parts = []
    for value in np.arange(low, high + step / 2, step):
        parts.append(_line(across(value), 0, across(value), bottom, "axis" if abs(value) < step / 2 else "grid"))
        parts.append(_text(across(value), bottom + 15, f"{0.0 if abs(value) < step / 2 else value:g}", "tick middle"))
    for i, ((label, _), (p5, p25, p50, p75, p95)) in enumerate(zip(rows, marks)):
        y = row_px * i + row_px / 2 + 2
        hint = f"{label}: median {p50:.2f}, half within {p25:.2f} to {p75:.2f}, 90 % within {p5:.2f} to {p95:.2f}"
        parts.append(_text(0, y + 4, _cut(label, 19), "name"))
        parts.append(f'<g class="range"><title>{escape(hint)}</title>')
        parts.append(f'<rect class="catch" x="{left}" y="{y - row_px / 2:.1f}" width="{room}" height="{row_px}"/>')
        parts.append(_line(across(p5), y, across(p95), y, "whisker"))
        parts.append(
            f'<rect class="bar" x="{across(p25):.1f}" y="{y - 4:.1f}" width="{max(across(p75) - across(p25), 2):.1f}" height="8" rx="4"/>'
        )
        parts.append(f'<circle class="dot" cx="{across(p50):.1f}" cy="{y:.1f}" r="3"/></g>')
    parts.append(_text(left + room / 2, bottom + 33, unit, "title middle"))
    return _svg(name, says, bottom + 40, parts)


def sliver(part: float, whole: float) -> str:
    """A bar for a table cell, hidden from readers that have the number beside it."""
    wide = 100 * part / whole if whole else 0
    return (
        '<svg class="sliver" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="plate" width="100" height="8"/><rect class="bar" width="{max(wide, 0.6):.1f}" height="8"/></svg>'
    )


def _margins(grid: np.ndarray, left: float, top: float, cell: float, margin: float) -> list[str]:
    """The sums of the pose grid: yaw above it, pitch to its right."""
    whole = max(int(grid.sum()), 1)
    across, down, parts = grid.sum(axis=0), grid.sum(axis=1), []
    for c in np.flatnonzero(across):
        tall = max((margin - 2) * across[c] / across.max(), 1)
        hint = f"yaw {YAW_EDGES[c]:.0f} to {YAW_EDGES[c + 1]:.0f}°: {across[c]:,} ({share(across[c], whole)})"
        parts.append(_rect(left + c * cell + 0.4, top - 4 - tall, cell - 0.8, tall, "bar", hint))
    for r in np.flatnonzero(down):
        tall = max((margin - 2) * down[r] / down.max(), 1)
        hint = f"pitch {PITCH_EDGES[r]:.0f} to {PITCH_EDGES[r + 1]:.0f}°: {down[r]:,} ({share(down[r], whole)})"
        parts.append(_rect(left + grid.shape[1] * cell + 4, top + r * cell + 0.4, tall, cell - 0.8, "bar", hint))
    return parts


def _svg(name: str, says: str, height: float, parts: Sequence[str]) -> str:
    label = escape(f"{name}. {says}" if says else name, quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, kind: str, *, turned: bool = False, hint: str = "") -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    title = f"<title>{escape(hint)}</title>" if hint else ""
    return f'<text class="{kind.strip()}" x="{x:.1f}" y="{y:.1f}"{turn}>{title}{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str, hint: str, ink: str = "") -> str:
    opacity = f' fill-opacity="{ink}"' if ink else ""
    box = f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{opacity}'
    return f"{box}><title>{escape(hint)}</title></rect>" if hint else f"{box}/>"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _wedge(x: float, y: float, inner: float, outer: float, start: float, stop: float) -> str:
    """The outline of a piece of a ring, angles in degrees counter-clockwise from the right."""
    (a, b), (c, d) = ((cos(radians(t)), -sin(radians(t))) for t in (start, stop))
    near = f"M{x + inner * a:.1f} {y + inner * b:.1f}L{x + outer * a:.1f} {y + outer * b:.1f}"
    far = f"A{outer:.1f} {outer:.1f} 0 0 0 {x + outer * c:.1f} {y + outer * d:.1f}L{x + inner * c:.1f} {y + inner * d:.1f}"
    return f"{near}{far}A{inner:.1f} {inner:.1f} 0 0 1 {x + inner * a:.1f} {y + inner * b:.1f}Z"


def _signed(degrees: float) -> str:
    return f"{degrees:+.0f}°".replace("-", "−") if degrees else "0°"


def _compass(degrees: float) -> str:
    names = ("right", "above right", "above", "above left", "left", "below left", "below", "below right")
    return f"from {names[round(degrees / 45) % 8]}"


def _ink(part: float) -> str:
    """How dark a cell of a density is: the root keeps rare cells visible."""
    return f"{0.1 + 0.9 * sqrt(min(part, 1)):.2f}"


def _quantiles(counts: np.ndarray) -> list[float]:
    found = Histogram(EXPRESSION_EDGES)
    found.counts += counts
    return [found.quantile(q) if found.total else 0.0 for q in (0.05, 0.25, 0.5, 0.75, 0.95)]


def _scale(high: float) -> tuple[float, float]:
    """Step and end of a percentage axis that reaches `high`."""
    step = _step(max(high, 1) / 3)
    return step, step * max(ceil(high / step - 1e-9), 1)


def _step(rough: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) next above `rough`."""
    power = 10 ** floor(log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _cut(text: str, letters: float) -> str:
    """The text with its middle left out where it is too long: both ends of a path tell more than its start."""
    size = int(letters)
    if len(text) <= size:
        return text
    head = (size - 1) // 3
    return f"{text[:head]}…{text[len(text) - (size - 1 - head) :]}"
