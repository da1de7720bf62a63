"""What in-flight batching brings: edits a second and latency at 1, 4 and 16 callers, against one request at a time.

    python benchmarks/serve_load.py [CHECKPOINT] [SECONDS]

Same process, same model, same conditions; only `most_rows` differs. Steps are mixed (4, 8, 12), closed loop. Writes
benchmarks/results/serve_load.json. HTTP and the eye are left out on
purpose: this is about the batch.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from rigface.types import Conditions
from serve.api import PaintOptions
from serve.painter import Studio

OUT = Path(__file__).parent / "results" / "serve_load.json"
STEPS = (4, 8, 12)


def conditions(seed: int, size: int, codes: int) -> Conditions:
    """Noise as pictures; the arithmetic does not care."""
    random = np.random.default_rng(seed)
    pictures = [random.integers(0, 256, (size, size, 3), np.uint8) for _ in range(3)]
    return Conditions(*pictures, random.normal(size=codes).astype(np.float32))


async def load(studio: Studio, name: str, callers: int, seconds: float, codes: int) -> dict[str, float]:
    """A closed loop of so many callers."""
    size = (await studio.canvas(name)).size
    latencies: list[float] = []
    end = time.monotonic() + seconds
    rows, steps = studio.rows_painted, studio.steps_taken

    async def caller(number: int) -> None:
        wish, turn = conditions(number, size, codes), number
        while time.monotonic() < end:
            began = time.monotonic()
            await studio.one(name, wish, PaintOptions(seed=turn, steps=STEPS[turn % len(STEPS)]))
            latencies.append(time.monotonic() - began)
            turn += 1

    began = time.monotonic()
    await asyncio.gather(*(caller(i) for i in range(callers)))
    took = time.monotonic() - began
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    batch = (studio.rows_painted - rows) / max(1, studio.steps_taken - steps)
    return {"edits_per_s": len(latencies) / took, "p50_s": p50, "p95_s": p95, "p99_s": p99, "mean_batch": batch}


def main() -> None:
    """Measure, print, write."""
    place = sys.argv[1] if len(sys.argv) > 1 else "tiny"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 8.0
    results: dict[str, object] = {"model": Path(place).name, "cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    for label, most_rows in (("one at a time", 1), ("in flight", 16)):
        studio = Studio.of({"m": place}, most_rows=most_rows)
        codes = studio._rooms["m"].pipeline.model.expression_size
        asyncio.run(load(studio, "m", 2, 1.0, codes))  # warm
        for callers in (1, 4, 16):
            found = asyncio.run(load(studio, "m", callers, seconds, codes))
            results[f"{label}, {callers} callers"] = {k: round(v, 4) for k, v in found.items()}
            print(f"{label:14} {callers:3} callers  " + "  ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
        studio.close()
    one, many = (results[f"{label}, 16 callers"]["edits_per_s"] for label in ("one at a time", "in flight"))  # type: ignore[index]
    results["ratio_at_16"] = round(many / one, 3)
    print(f"ratio at 16 callers: {many / one:.2f}")
    OUT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
