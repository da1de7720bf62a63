"""The end of a run as a page: its curves, its grids of held-out edits, and what it was told. Asks nobody for anything.

Path: OUT/log, OUT/rigface.json -> OUT/index.html, numbers once more as OUT/log.parquet.
"""

from __future__ import annotations

import base64
import html
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.train import metric_log
from rigface.storage.store import Store

PAGE = "index.html"
TABLE = "log.parquet"
GRIDS = 6  # shown, evenly over the run
WIDTH, HEIGHT, LEFT, BELOW = 460, 170, 46, 22

# (title, the lines in it, whether a smoothed line helps)
CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss",)),
    ("PSNR of held-out edits, dB", ("validation/psnr", "validation/preview_psnr", "validation/copy_psnr")),
    ("distance of identity vectors to the true frame", ("validation/identity_distance", "validation/preview_identity_distance")),
    ("pose gain", ("validation/pose_gain", "validation/preview_pose_gain")),
    ("expression gain", ("validation/expression_gain", "validation/preview_expression_gain")),
    ("light gain", ("validation/light_gain", "validation/preview_light_gain")),
    ("faces found, share", ("validation/face_found",)),
    ("share of a step that waited for data", ("wait_share",)),
    ("learning rate", ("learning_rate",)),
)  # fmt: skip
COLOURS = ("#2563eb", "#b45309", "#6b7280")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #111; background: #fff }
figure { display: inline-block; margin: 0 1.2rem 1.2rem 0; vertical-align: top } figcaption { font-weight: 600 }
img { max-width: 100%; height: auto } pre { background: #f4f4f5; padding: 1rem; overflow-x: auto; font-size: 13px }
svg text { font-size: 11px; fill: #555 } .key { font-weight: 400; font-size: 13px }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #111 } pre { background: #1f2937 } svg text { fill: #aaa } }
"""


def write(store: Store) -> None:
    """Make the page and the table of a run."""
    lines = metric_log.lines(store)
    if lines:
        names = sorted({name for line in lines for name in line})
        table = pa.table({name: pa.array([line.get(name) for line in lines]) for name in names})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        store.publish(TABLE, sink.getvalue())
    store.publish(PAGE, document(store, lines).encode())


def document(store: Store, lines: list[dict[str, Any]]) -> str:
    """The page as HTML."""
    about = json.loads(store.read("rigface.json")) if store.exists("rigface.json") else {}
    figures = [figure for title, names in CURVES if (figure := _figure(title, names, lines))]
    last = max((line["step"] for line in lines), default=0)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>RigFace training</title><style>{STYLE}</style>"
        f"<h1>RigFace training</h1><p>{last:,} steps; {_summary(lines)}</p>{''.join(figures)}"
        f"<h2>Held-out edits</h2><p>Each row twice: source, preview, edit, the true frame. Nobody here was trained on.</p>"
        f"{_grids(store)}<h2>Settings</h2><pre>{html.escape(json.dumps(about.get('config', {}), indent=1))}</pre></html>"
    )


def _summary(lines: list[dict[str, Any]]) -> str:
    steps = [line["step_s"] for line in lines if "step_s" in line]
    waits = [line["wait_s"] for line in lines if "wait_s" in line]
    if not steps:
        return "no step was logged"
    whole = sum(steps) + sum(waits)
    return f"{sum(steps) / len(steps):.3g} s a step, {sum(waits) / max(whole, 1e-9):.1%} of the time waiting for data"


def _figure(title: str, names: tuple[str, ...], lines: list[dict[str, Any]]) -> str:
    series = {name: [(line["step"], line[name]) for line in lines if line.get(name) is not None] for name in names}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    values = [value for points in series.values() for _, value in points]
    low, high = min(values), max(values)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = low - pad, high + pad
    last = max(step for points in series.values() for step, _ in points)

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - 6) * step / max(last, 1)
        return f"{x:.1f},{(HEIGHT - BELOW) * (high - value) / (high - low):.1f}"

    paths, keys = [], []
    for colour, (name, points) in zip(COLOURS, series.items()):
        drawn = [(s, v) for s, v in _thinned(points)]
        paths.append(
            f"<polyline fill=none stroke='{colour}' stroke-width=1.6 points='{' '.join(place(*p) for p in drawn)}'/>"
        )
        label = name.removeprefix("validation/").replace("_", " ")
        keys.append(f"<span style='color:{colour}'>{label} {points[-1][1]:.4g}</span>")
    grid = "".join(
        f"<line x1={LEFT} x2={WIDTH} y1={y:.1f} y2={y:.1f} stroke='#8884'/><text x=0 y={y + 4:.1f}>{v:.3g}</text>"
        for v in (low + pad, (low + high) / 2, high - pad)
        for y in ((HEIGHT - BELOW) * (high - v) / (high - low),)
    )
    axis = (
        f"<text x={LEFT} y={HEIGHT - 4}>0</text><text x={WIDTH - 6} y={HEIGHT - 4} text-anchor=end>step {last:,}</text>"
    )
    return (
        f"<figure><figcaption>{html.escape(title)} <span class=key>{' · '.join(keys)}</span></figcaption>"
        f"<svg width={WIDTH} height={HEIGHT} role=img aria-label='{html.escape(title)}'>{grid}{''.join(paths)}{axis}</svg></figure>"
    )


def _thinned(points: list[tuple[int, float]], most: int = 400) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of its neighbours."""
    size = max(1, -(-len(points) // most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]


def _grids(store: Store) -> str:
    paths = sorted(store.paths(f"{metric_log.FOLDER}/pictures", ".png"))
    if not paths:
        return "<p>None: there was nobody to hold out.</p>"
    keep = sorted(
        {round(i * (len(paths) - 1) / max(1, min(GRIDS, len(paths)) - 1)) for i in range(min(GRIDS, len(paths)))}
    )
    out = []
    for path in (paths[i] for i in reversed(keep)):
        step = int(path.rsplit("-", 1)[-1].removesuffix(".png"))
        data = base64.b64encode(store.read(path)).decode()
        out.append(
            f"<figure><figcaption>step {step:,}</figcaption><img alt='held-out edits at step {step}' src='data:image/png;base64,{data}'></figure>"
        )
    return "".join(out)
