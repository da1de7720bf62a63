"""Page of a training run: its curves, its grids of held-out edits and its settings.

Path: OUT/log, OUT/rigface.json -> OUT/index.html, and the logged numbers as OUT/log.parquet.
"""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.train import metric_log
from rigface.pages import charts
from rigface.pages.environment import page
from rigface.storage.store import Store

PAGE = "index.html"
TABLE = "log.parquet"
MAX_GRIDS = 6  # shown, evenly over the run

CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (  # title, names of the logged numbers
    ("loss", ("loss",)),
    ("validation loss at fixed draws, by time of the process",
     ("validation/loss", *(f"validation/loss_t{t}" for t in (125, 375, 625, 875, 1000)))),
    ("PSNR of held-out edits, dB", ("validation/psnr", "validation/preview_psnr", "validation/copy_psnr")),
    ("identity distance to the true frame", ("validation/identity_distance", "validation/preview_identity_distance")),
    ("pose gain", ("validation/pose_gain", "validation/preview_pose_gain")),
    ("expression gain", ("validation/expression_gain", "validation/preview_expression_gain")),
    ("light gain", ("validation/light_gain", "validation/preview_light_gain")),
    ("faces found, share", ("validation/face_found",)),
    ("share of a step that waited for data", ("wait_share",)),
    ("learning rate", ("learning_rate",)),
    ("norm of the gradient before clipping", ("grad_norm",)),
)  # fmt: skip


def write(store: Store) -> None:
    """Write the page and the table of a run."""
    lines = metric_log.lines(store)
    if lines:
        names = sorted({name for line in lines for name in line})
        sink = io.BytesIO()
        pq.write_table(pa.table({n: [line.get(n) for line in lines] for n in names}), sink, compression="zstd")
        store.publish(TABLE, sink.getvalue())
    store.publish(PAGE, document(store, lines).encode())


def document(store: Store, lines: list[dict[str, Any]]) -> str:
    """The page as HTML."""
    about = json.loads(store.read("rigface.json")) if store.exists("rigface.json") else {}
    curves = [(title, series) for title, names in CURVES if (series := _series(names, lines))]
    return page(
        "pipelines.train",
        "training",
        steps=max((line["step"] for line in lines), default=0),
        timing=_timing(lines),
        curves=[(title, charts.lines(title, series), series) for title, series in curves],
        grids=_grids(store),
        settings=json.dumps(about.get("config", {}), indent=1),
    )


def _timing(lines: list[dict[str, Any]]) -> str:
    steps = [line["step_s"] for line in lines if "step_s" in line]
    waits = [line["wait_s"] for line in lines if "wait_s" in line]
    if not steps:
        return "no step was logged"
    whole = sum(steps) + sum(waits)
    return f"{sum(steps) / len(steps):.3g} s a step, {sum(waits) / max(whole, 1e-9):.1%} of the time waiting for data"


def _series(names: tuple[str, ...], lines: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """(step, value) points of each number that was logged, by its label."""
    series = {name: [(line["step"], line[name]) for line in lines if line.get(name) is not None] for name in names}
    return {name.removeprefix("validation/").replace("_", " "): points for name, points in series.items() if points}


def _grids(store: Store) -> list[tuple[int, bytes]]:
    """Step and PNG of some grids, the last one first."""
    paths = sorted(store.paths(f"{metric_log.FOLDER}/pictures", ".png"))
    shown = np.linspace(len(paths) - 1, 0, min(MAX_GRIDS, len(paths))).round().astype(int)
    return [(int(paths[i].rsplit("-", 1)[-1].removesuffix(".png")), store.read(paths[i])) for i in shown]
