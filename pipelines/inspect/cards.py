"""The cards of the page: a chart each, under a title and one sentence that says what the chart shows.

Path: FaceCensus, InputCensus -> cards -> `document`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import cos, radians, tan

import numpy as np

from pipelines.formatting import duration
from pipelines.inspect import charts
from pipelines.inspect.charts import Axis, Bar, Mark, share
from pipelines.inspect.inputs import InputCensus
from pipelines.inspect.statistics import EXPRESSION_EDGES, FLAGS, ITA_EDGES, FaceCensus, Histogram

SHOWN_EXPRESSIONS = 12
SHOWN_PEOPLE = 10
TONES = ("dark", "brown", "tan", "intermediate", "light", "very light")  # the bins of ITA_EDGES
_TONE_DEG = (-50, -10, 19, 34, 48, 58)  # where in each bin the swatch is taken
FLAG_MEANING = {
    "is_profile": ("profile", "|yaw| > 60°"),
    "is_tiny": ("tiny", "under 48 px"),
    "is_blurred": ("blurred", "sharpness < 0.15"),
    "is_grey": ("grey", "no colour"),
    "is_suspect": ("suspect", "not a human face?"),
}


def seen(faces: FaceCensus) -> str:
    """Head pose, light direction, skin tone."""
    return _pose(faces) + _light(faces) + _tone(faces)


def trust(faces: FaceCensus) -> str:
    """Six numbers of quality."""
    n = faces.numbers
    tenths = [(v / 10, f"{v / 10:g}") for v in range(0, 11, 2)]
    sizes = [(2.0**p, f"{2**p}") for p in range(3, 12)]
    flagged = [
        Bar(
            FLAG_MEANING[f][0],
            faces.flags[f],
            f"{faces.flags[f]:,}",
            share(faces.flags[f], faces.ok),
            FLAG_MEANING[f][1],
        )
        for f in FLAGS
    ]
    most = max(FLAGS, key=lambda f: faces.flags[f])
    flags_say = (
        f"Most often {FLAG_MEANING[most][0]}: {share(faces.flags[most], faces.ok)} of faces."
        if faces.flags[most]
        else "No face is flagged."
    )
    return "".join(
        [
            _histogram("Confidence", n["confidence"], Axis("how far to trust the row as a whole", tenths), "Median {median:.2f}; nine in ten have {low:.2f} or more.", ".2f"),
            _histogram("Face size", n["face_size_px"], Axis("larger side of the landmark box, frame px (log)", sizes), "Median {median:.0f} px; nine in ten have {low:.0f} px or more.", ".0f", [Mark(48, "tiny")]),
            _card("Flags", flags_say, charts.bars("Flags", flagged, flags_say, row_px=34) if faces.ok else ""),
            _histogram("Sharpness", n["sharpness"], Axis("gradient energy; 1 is a crisp photograph", tenths), "Median {median:.2f}.", ".2f", [Mark(0.15, "blurred")]),
            _histogram("Exposure", n["exposure"], Axis("mean luminance of the skin, linear", tenths), "Median {median:.2f}.", ".2f"),
            _histogram(
                "Landmark residual",
                n["landmark_residual"],
                Axis("landmarks against the fitted head, % of outer-eye distance (log)", [(v / 100, f"{v:g}") for v in (0.1, 0.2, 0.5, 1, 2, 5, 10)]),
                "Median {median:.2%} of the outer-eye distance; nine in ten have {high:.2%} or less.",
                ".2%",
            ),
        ]
    )  # fmt: skip


def people_says(faces: FaceCensus) -> str:
    if not faces.ok:
        return ""
    if faces.with_identity:
        return f"{len(faces.people):,} identities. An identity is one person across all inputs."
    return "Identities have not been computed (<code>rigface identities</code> does it), so each track counts as a person of its own."


def people(faces: FaceCensus, thumbs: Mapping[str, str]) -> str:
    """Who has most frames, how frames spread over persons, which expressions vary."""
    noun = "identity" if faces.with_identity else "track"
    nouns = "identities" if faces.with_identity else "tracks"
    top = faces.most_seen(SHOWN_PEOPLE)
    rows = [
        Bar(
            name,
            p.frames,
            f"{p.frames:,}",
            f"{name}: {p.frames:,} frames ({share(p.frames, faces.ok)})",
            face=thumbs.get(name, ""),
        )
        for name, p in top
    ]
    held = sum(p.frames for _, p in top)
    says = (
        f"The {len(top)} most seen hold {share(held, faces.ok)} of all faces." if len(faces.people) > len(top) else ""
    )
    most = _card(
        f"{nouns.capitalize()} by number of frames",
        says,
        charts.bars(f"{nouns} by frames", rows, says, row_px=30) if rows else "",
    )
    frames = np.array([p.frames for p in faces.people.values()], float)
    doublings = np.floor(np.log2(frames)).astype(int)  # bins 1, 2-3, 4-7, 8-15 ...
    rows = []
    for power, count in enumerate(np.bincount(doublings, minlength=4).tolist() if len(frames) else []):
        low, high = 2**power, 2 ** (power + 1) - 1
        span = "1 frame" if not power else f"{low:,}–{high:,} frames"
        rows.append(Bar(span, count, f"{count:,}", f"{count:,} {nouns} with {span} ({share(count, len(frames))})"))
    few = int((frames == 1).sum())
    says = (
        f"Median {np.median(frames):.0f}; {few:,} {'has' if few == 1 else 'have'} a single frame."
        if len(frames)
        else ""
    )
    chart = charts.bars(f"frames per {noun}", rows, says, row_px=30) if rows else ""
    return most + _expression(faces) + _card(f"Frames per {noun}", says, chart)


def throughput(inputs: InputCensus) -> str:
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
    says = (
        f"{duration(whole)} of work in all stages, {1000 * whole / frames:.3g} ms per sampled frame." if whole else ""
    )
    return _card("Time by stage", says, charts.bars("time by stage", rows, says, row_px=36) if rows else "")


def _pose(faces: FaceCensus) -> str:
    beyond = int(faces.yaw.counts[(faces.yaw.edges[1:] <= -60) | (faces.yaw.edges[:-1] >= 60)].sum())
    says = (
        f"Half of the faces between {faces.yaw.quantile(0.25):+.0f}° and {faces.yaw.quantile(0.75):+.0f}° yaw; "
        f"{share(beyond, faces.yaw.total)} turned beyond 60°."
    ).replace("-", "−")
    return _card("Head pose", says, charts.pose(faces.pose, says) if faces.yaw.total else "")


def _light(faces: FaceCensus) -> str:
    directed = int(faces.light.sum())
    whole = directed + faces.light_flat
    sectors = faces.light[1:].sum(axis=0)
    turn = np.radians((np.arange(len(sectors)) + 0.5) * 360 / len(sectors))
    above = int(sectors[np.sin(turn) > 0].sum())
    says = f"Centre: the camera; rim: the side. From above {share(above, max(int(sectors.sum()), 1))}"
    says += f", from behind, on the rim, {share(faces.light_behind, whole)}" if faces.light_behind else ""
    says += f", too even to tell {share(faces.light_flat, whole)}." if faces.light_flat else "."
    return _card("Light direction", says, charts.light(faces.light, says) if directed else "")


def _tone(faces: FaceCensus) -> str:
    counts = faces.tone.counts
    rows = []
    for i in reversed(range(len(TONES))):
        low, high = ITA_EDGES[i], ITA_EDGES[i + 1]
        span = (
            f"above {low:.0f}°"
            if i == len(TONES) - 1
            else f"below {high:.0f}°"
            if not i
            else f"{low:.0f}° to {high:.0f}°"
        )
        count = int(counts[i])
        rows.append(
            Bar(
                TONES[i],
                count,
                share(count, faces.tone.total),
                f"{TONES[i]}: {count:,}",
                span.replace("-", "−"),
                swatch(_TONE_DEG[i]),
            )
        )
    says = "Individual typology angle of the skin as photographed, so the light takes part; grey pictures are left out."
    return _card("Skin tone", says, charts.bars("Skin tone", rows, says, row_px=40) if faces.tone.total else "")


def _expression(faces: FaceCensus) -> str:
    middles = (EXPRESSION_EDGES[1:] + EXPRESSION_EDGES[:-1]) / 2
    whole = np.maximum(faces.expression.sum(axis=1), 1)
    mean = faces.expression @ middles / whole
    spread = np.sqrt(np.maximum(faces.expression @ middles**2 / whole - mean**2, 0))
    names = faces.head.expression_names or tuple(f"component {i + 1}" for i in range(faces.head.expression))
    order = np.argsort(-spread, kind="stable")[:SHOWN_EXPRESSIONS]
    rows = [(names[i], faces.expression[i]) for i in order]
    unit = "1 = the named expression in full" if faces.head.expression_names else "standard deviations"
    says = f"The {len(rows)} coefficients that vary most, of {len(names)}: median, half, and 90 % of faces."
    return _card("Expression", says, charts.ranges("Expression", rows, unit, says) if faces.expression.sum() else "")


def _histogram(name: str, counts: Histogram, axis: Axis, says: str, fmt: str, marks: list[Mark] | None = None) -> str:
    if not counts.total:
        return _card(name, "", "")
    text = says.format(median=counts.quantile(0.5), low=counts.quantile(0.1), high=counts.quantile(0.9)).replace(
        "%", " %"
    )
    return _card(name, text, charts.histogram(name, counts, axis, text, marks=marks or (), fmt=fmt))


def _card(title: str, says: str, chart: str) -> str:
    body = chart or '<p class="none">Nothing to show.</p>'
    return f'<div class="card"><h3>{escape(title)}</h3><p>{escape(says)}</p>{body}</div>'


def swatch(ita_deg: float) -> str:
    """An sRGB colour with this typology angle: L* = 50 + b* tan(ITA), at a chroma that skin has there.

    Source: ITA = atan((L* - 50) / b*), Chardon 1991; b* about 17, less in dark skin, a* about 11.
    """
    b = 17.0 * cos(radians(min(ita_deg, 0))) ** 0.5
    return _srgb(50 + b * tan(radians(ita_deg)), 11.0, b)


def _srgb(lightness: float, a: float, b: float) -> str:
    """CIE L*a*b* (D65) as #rrggbb."""

    def cube(t: float) -> float:
        return t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29)

    y = (lightness + 16) / 116
    x, z = 0.95047 * cube(y + a / 500), 1.08883 * cube(y - b / 200)
    y = cube(y)
    linear = (
        3.2406 * x - 1.5372 * y - 0.4986 * z,
        -0.9689 * x + 1.8758 * y + 0.0415 * z,
        0.0557 * x - 0.2040 * y + 1.0570 * z,
    )
    encoded = (
        12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in (min(max(v, 0), 1) for v in linear)
    )
    return "#" + "".join(f"{round(255 * v):02x}" for v in encoded)
