"""Unit costs for the capacity plan: bytes of a face, time of an edit.

    python benchmarks/capacity.py DATASET        a dataset that `rigface extract` wrote; a minute

Processor time of this process and its threads, not the clock's, so that a busy machine disturbs little. Writes
benchmarks/results/capacity.json, which docs/scaling.md is made of.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pyarrow.parquet as pq


def dataset(out: Path) -> dict[str, float]:
    """Sizes of a finished dataset."""
    parts = sorted(out.glob("faces/??/*.parquet"))
    faces = sum(pq.read_metadata(p).num_rows for p in parts)
    plans = [pq.read_table(p) for p in out.glob(".rigface/plans/*.parquet")]
    texts = [t for table in plans for t in table["plan"].to_pylist()]
    inputs = sorted(out.glob("inputs/*.parquet"))
    rows = sum(pq.read_metadata(p).num_rows for p in inputs)
    return {
        "faces": faces,
        "parts": len(parts),
        "bytes_per_face": sum(p.stat().st_size for p in parts) / faces,
        "bytes_per_plan": statistics.mean(map(len, texts)),
        "bytes_per_input_row": sum(p.stat().st_size for p in inputs) / rows,
        "columns_per_face": _columns(parts[:40]),
    }


def _columns(parts: list[Path]) -> dict[str, float]:
    sizes: dict[str, int] = {}
    rows = 0
    for part in parts:
        about = pq.read_metadata(part)
        rows += about.num_rows
        for group in range(about.num_row_groups):
            for k in range(about.num_columns):
                column = about.row_group(group).column(k)
                name = column.path_in_schema.split(".")[0]
                sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    top = sorted(sizes.items(), key=lambda item: -item[1])[:4]
    return {**{name: size / rows for name, size in top}, "all": sum(sizes.values()) / rows}


def edits() -> dict[str, float]:
    """Processor seconds of the parts of an edit of a 512 px portrait, all but the model's."""
    from skimage import data

    from rigface.edits import EditSpec, FaceEdit
    from rigface.image import encode_png
    from rigface.profile import ConditionSpec
    from serve.content_cache import picture_id
    from serve.inference.face_worker import FaceWorker
    from serve.messages import EditInput, OutputOptions

    face_worker, image, input_spec = FaceWorker.load(), data.astronaut(), ConditionSpec("albedo", 256)

    def edit_input(number: int) -> EditInput:
        other = image.copy()
        other[0, 0] = number  # another picture to those who go by content
        png = encode_png(other)
        name = picture_id(png)
        edit = EditSpec(yaw_deg=10.0, expression={"smile": 0.5})
        return EditInput(name, (FaceEdit(edit=edit),), {name: png}, max_side=512)

    fresh = [edit_input(k) for k in range(6)]
    crop = np.zeros((input_spec.size, input_spec.size, 3), np.uint8)
    return {
        "look_s": _spent([lambda w=w: asyncio.run(face_worker.reconstruct(w)) for w in fresh]),  # type: ignore[misc]
        "compose_s": _spent([lambda: asyncio.run(face_worker.compose(fresh[0], input_spec))] * 5),
        "preview_s": _spent([lambda: asyncio.run(face_worker.preview(fresh[0], OutputOptions("jpeg", {}, 82)))] * 5),
        "finish_s": _spent(
            [lambda: asyncio.run(face_worker.finish(fresh[0], input_spec, [crop], OutputOptions("png", {})))] * 4
        ),
    }


def _spent(calls: list[Callable[[], Any]]) -> float:
    """Median processor seconds; the first call warms."""
    times = []
    for call in calls:
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return statistics.median(times[1:])


def main() -> None:
    import torch

    torch.set_num_threads(1)
    result = {
        "benchmark": "capacity", "dataset": dataset(Path(sys.argv[1])), "edit": edits(),
        **harness.environment(),
    }  # fmt: skip
    harness.write("capacity", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
