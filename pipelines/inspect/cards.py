"""Cards of the inspect page: a chart each, under a title and a sentence that says what the chart shows.

Path: FaceStatistics, InputStatistics -> cards -> `report.py`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from pipelines.formatting import duration
from pipelines.inspect.inputs import InputStatistics
from pipelines.inspect.statistics import (
    EXPRESSION_EDGES,
    FLAGS,
    ITA_EDGES,
    LIGHT_RINGS_DEG,
    PITCH_EDGES,
    YAW_EDGES,
    FaceStatistics,
    Histogram,
)
from rigface.pages import charts
from rigface.pages.charts import Axis, Bar, Mark, share

SHOWN_EXPRESSIONS = 12
SHOWN_PEOPLE = 10
# Bins of ITA_EDGES. Colours: ITA = -50, -10, 19, 34, 48, 58 degrees at L* = 50 + b* tan(ITA), a* = 11, b* = 17
# (times the root of cos(ITA) below 0), a chroma that skin has there.
TONES = {
    "dark": "#67493a",
    "brown": "#8b6854",
    "tan": "#a37e69",
    "intermediate": "#b28d77",
    "light": "#c7a08a",
    "very light": "#deb7a0",
}
FLAG_MEANING = {
    "is_profile": ("profile", "|yaw| > 60°"),
    "is_tiny": ("tiny", "under 48 px"),
    "is_blurred": ("blurred", "sharpness < 0.15"),
    "is_grey": ("grey", "no colour"),
    "is_suspect": ("suspect", "not a human face?"),
}


class Card(NamedTuple):
    """A chart with its title and caption; an empty chart means that there is nothing to show."""

    title: str
    caption: str
    chart: Markup | str


def appearance(faces: FaceStatistics) -> list[Card]:
    """Head pose, light direction, skin tone."""
    return [_pose(faces), _light(faces), _tone(faces)]


def quality(faces: FaceStatistics) -> list[Card]:
    """Confidence, face size, flags, sharpness, exposure, landmark residual."""
    tenths = [(v / 10, f"{v / 10:g}") for v in range(0, 11, 2)]
    sizes = [(2.0**p, f"{2**p}") for p in range(3, 12)]
    percents = [(v / 100, f"{v:g}") for v in (0.1, 0.2, 0.5, 1, 2, 5, 10)]

    def card(title: str, axis: Axis, caption: str, mark: Mark | None = None, column: str = "") -> Card:
        return _histogram(title, faces.numbers[column or title.lower().replace(" ", "_")], axis, caption, mark)

    return [
        card(
            "Confidence",
            Axis("how far to trust the row as a whole", tenths),
            "Median {median:.2f}; nine in ten have {low:.2f} or more.",
        ),
        card(
            "Face size",
            Axis("larger side of the landmark box, frame px (log)", sizes),
            "Median {median:.0f} px; nine in ten have {low:.0f} px or more.",
            Mark(48, "tiny"),
            "face_size_px",
        ),
        _flags(faces),
        card(
            "Sharpness",
            Axis("gradient energy; 1 is a crisp photograph", tenths),
            "Median {median:.2f}.",
            Mark(0.15, "blurred"),
        ),
        card("Exposure", Axis("mean luminance of the skin, linear", tenths), "Median {median:.2f}."),
        card(
            "Landmark residual",
            Axis("% of the outer-eye distance (log)", percents),
            "Median {median:.2%} of the outer-eye distance; nine in ten have {high:.2%} or less.",
        ),
    ]


class SeenPerson(NamedTuple):
    """One of the most seen persons: the name, the number of frames, a small face as a data URI."""

    name: str
    frames: int
    thumb: str


def people(faces: FaceStatistics, seen: Sequence[SeenPerson]) -> list[Card]:
    """Frames by person, the expressions that vary most, frames per person."""
    noun, nouns = ("identity", "identities") if faces.with_identity else ("track", "tracks")
    rows = [
        Bar(name, n, f"{n:,}", f"{name}: {n:,} frames ({share(n, faces.ok)})", face=thumb) for name, n, thumb in seen
    ]
    covered = share(sum(person.frames for person in seen), faces.ok)
    caption = f"The {len(seen)} most seen have {covered} of all faces." if len(faces.people) > len(seen) else ""
    most_seen = _bars(f"{nouns.capitalize()} by number of frames", rows, caption, 30)
    frames = faces.people.frames
    doublings = np.floor(np.log2(frames)).astype(int)  # bins 1, 2-3, 4-7, 8-15 ...
    rows = []
    for power, count in enumerate(np.bincount(doublings, minlength=4).tolist() if len(frames) else []):
        span = f"{2**power:,}–{2 ** (power + 1) - 1:,} frames" if power else "1 frame"
        rows.append(Bar(span, count, f"{count:,}", f"{count:,} {nouns} with {span} ({share(count, len(frames))})"))
    single = int((frames == 1).sum())
    caption = f"Median {np.median(frames):.0f}; {single:,} with a single frame." if len(frames) else ""
    return [most_seen, _expression(faces), _bars(f"Frames per {noun}", rows, caption, 30)]


def throughput(inputs: InputStatistics) -> Card:
    """Working time by stage."""
    whole, frames = sum(inputs.seconds.values()), max(inputs.totals["frames"], 1)
    rows = [
        Bar(
            stage,
            seconds,
            duration(seconds),
            f"{stage}: {seconds:,.1f} s ({share(seconds, whole)})",
            f"{1000 * seconds / frames:.3g} ms per frame",
        )
        for stage, seconds in inputs.seconds.most_common(10)
    ]
    caption = f"{duration(whole)} in all stages, {1000 * whole / frames:.3g} ms per sampled frame." if whole else ""
    return _bars("Time by stage", rows, caption, 36)


def _pose(faces: FaceStatistics) -> Card:
    beyond = int(faces.yaw.counts[(faces.yaw.edges[1:] <= -60) | (faces.yaw.edges[:-1] >= 60)].sum())
    caption = (
        f"Half of the faces between {faces.yaw.quantile(0.25):+.0f}° and {faces.yaw.quantile(0.75):+.0f}° yaw; "
        f"{share(beyond, faces.yaw.total)} turned beyond 60°."
    ).replace("-", "−")
    chart = charts.pose(faces.pose, PITCH_EDGES, YAW_EDGES, caption) if faces.yaw.total else ""
    return Card("Head pose", caption, chart)


def _light(faces: FaceStatistics) -> Card:
    directed = int(faces.light.sum())
    whole = directed + faces.light_flat
    sectors = faces.light[1:].sum(axis=0)
    turn = np.radians((np.arange(len(sectors)) + 0.5) * 360 / len(sectors))
    above = int(sectors[np.sin(turn) > 0].sum())
    caption = f"Centre: the camera; rim: the side. From above {share(above, max(int(sectors.sum()), 1))}"
    caption += f", from behind, on the rim, {share(faces.light_behind, whole)}" if faces.light_behind else ""
    caption += f", too even to tell {share(faces.light_flat, whole)}." if faces.light_flat else "."
    return Card("Light direction", caption, charts.light(faces.light, LIGHT_RINGS_DEG, caption) if directed else "")


def _tone(faces: FaceStatistics) -> Card:
    degrees = [f"{edge:.0f}°".replace("-", "−") for edge in ITA_EDGES]
    spans = [f"{low} to {high}" for low, high in pairwise(degrees)]
    spans[0], spans[-1] = f"below {degrees[1]}", f"above {degrees[-2]}"
    rows = [
        Bar(tone, count, share(count, faces.tone.total), f"{tone}: {count:,}", span, colour)
        for (tone, colour), count, span in zip(TONES.items(), faces.tone.counts.tolist(), spans)
    ]
    caption = "Individual typology angle of the skin as photographed, light included; grey pictures are left out."
    return _bars("Skin tone", rows[::-1] if faces.tone.total else [], caption, 40)


def _flags(faces: FaceStatistics) -> Card:
    rows = [
        Bar(label, faces.flags[flag], f"{faces.flags[flag]:,}", share(faces.flags[flag], faces.ok), meaning)
        for flag, (label, meaning) in FLAG_MEANING.items()
    ]
    most = max(FLAGS, key=lambda flag: faces.flags[flag])
    caption = f"Most often {FLAG_MEANING[most][0]}: {share(faces.flags[most], faces.ok)} of faces."
    return _bars("Flags", rows if faces.ok else [], caption if faces.flags[most] else "No face is flagged.", 34)


def _expression(faces: FaceStatistics) -> Card:
    middles = (EXPRESSION_EDGES[1:] + EXPRESSION_EDGES[:-1]) / 2
    whole = np.maximum(faces.expression.sum(axis=1), 1)
    mean = faces.expression @ middles / whole
    spread = np.sqrt(np.maximum(faces.expression @ middles**2 / whole - mean**2, 0))
    names = faces.head.expression_names or tuple(f"component {i + 1}" for i in range(faces.head.expression))
    order = np.argsort(-spread, kind="stable")[:SHOWN_EXPRESSIONS]
    rows = [(names[i], quantiles(faces.expression[i])) for i in order]
    unit = "1 = the named expression in full" if faces.head.expression_names else "standard deviations"
    caption = f"The {len(rows)} coefficients that vary most, of {len(names)}: median, half, and 90 % of faces."
    chart = charts.ranges("Expression", rows, unit, caption) if faces.expression.sum() else ""
    return Card("Expression", caption, chart)


def quantiles(counts: np.ndarray) -> list[float]:
    """The 5, 25, 50, 75 and 95 % quantiles of counts over `EXPRESSION_EDGES`."""
    histogram = Histogram(EXPRESSION_EDGES)
    histogram.counts += counts
    return [histogram.quantile(q) if histogram.total else 0.0 for q in (0.05, 0.25, 0.5, 0.75, 0.95)]


def _histogram(title: str, counts: Histogram, axis: Axis, caption: str, mark: Mark | None) -> Card:
    """A card of one number; bins are written in the format that the caption has for the median."""
    if not counts.total:
        return Card(title, "", "")
    low, median, high = (counts.quantile(q) for q in (0.1, 0.5, 0.9))
    text = caption.format(median=median, low=low, high=high).replace("%", " %")
    fmt = caption.partition("{median:")[2].partition("}")[0]
    marks = [] if mark is None else [mark]
    chart = charts.histogram(title, counts.edges, counts.counts, axis, text, median=median, marks=marks, fmt=fmt)
    return Card(title, text, chart)


def _bars(title: str, rows: list[Bar], caption: str, row_px: int) -> Card:
    return Card(title, caption, charts.bars(title, rows, caption, row_px=row_px) if rows else "")
