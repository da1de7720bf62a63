"""Limits of a small model's figures: pictures without a model, evaluated on the same pairs as the model.

    python benchmarks/mini_limits.py PAIRS [--model mini]        PAIRS: what `rigface pair` wrote; about two minutes

On all pairs of two photographs whose people are held out: PSNR to the true frame, distance of the identity vectors to
the true frame's, and gain in pose, expression and light, of the preview, of blurred pictures, of the preview with
something of the true frame in it, and of the model, as it is and with its change doubled (what `--output-scale 0.5`
left out). PSNR rewards blur; the rest punishes it.

Writes benchmarks/results/mini_limits.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import cv2
import harness
import numpy as np
import pyarrow as pa

from pipelines.examples import held_out
from pipelines.examples.example_index import ExampleIndex
from rigface.evaluation.estimator import FaceEstimator
from rigface.examples import examples_of
from rigface.metrics.gain import gain
from rigface.metrics.geometry import distances, stack
from rigface.metrics.image import psnr
from rigface.model.pipeline import RigFacePipeline
from rigface.storage.store import Store
from rigface.types import Example

BATCH = 16


def held_out_pairs(source: Store) -> Example:
    """All pairs of two photographs of held-out people; pictures (N, S, S, 3) uint8."""
    rows = [r for r in held_out.rows_of(ExampleIndex.of(source)) if r.kind == "pair"]
    return examples_of(pa.concat_tables([r.part.table().slice(r.row, 1) for r in rows]).combine_chunks())


def blurred(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """(N, S, S, 3) float32 under a Gaussian of so many px."""
    return np.stack([cv2.GaussianBlur(p, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for p in pictures])


def pictures_of(example: Example, model: str) -> dict[str, np.ndarray]:
    """Every kind of picture, (N, S, S, 3) float32 in 0..255."""
    preview, truth = (p.astype(np.float32) for p in (example.conditions.render, example.target))
    pipeline = RigFacePipeline.from_pretrained(model)
    made = np.concatenate(
        [
            pipeline.edit(example.conditions.map(lambda p, k=k: p[k : k + BATCH]), seed=0)
            for k in range(0, len(truth), BATCH)
        ]
    ).astype(np.float32)
    return {
        "preview": preview,
        "preview, blurred by 0.8 px": blurred(preview, 0.8),
        "true frame, blurred by 0.8 px": blurred(truth, 0.8),
        "preview with the true frame's areas (4 px)": preview + blurred(truth - preview, 4.0),
        "preview with 0.3 of the true frame": 0.7 * preview + 0.3 * truth,
        model: made,
        f"{model}, its change doubled": 2 * made - preview,
    }


def measure(example: Example, model: str) -> dict[str, Any]:
    """All figures, picture by picture."""
    judge = FaceEstimator.load()
    source, target = (judge(list(p)) for p in (example.conditions.reference, example.target))
    out: dict[str, Any] = {"pairs": len(example.target)}
    for name, pictures in pictures_of(example, model).items():
        shown = (pictures + 0.5).clip(0, 255).astype(np.uint8)
        seen = judge(list(shown))
        both = [i for i in range(len(seen)) if all(s[i] is not None for s in (seen, source, target))]
        edit, before, truth = (stack([s[i].params for i in both]) for s in (seen, source, target))
        after, without = distances(edit, truth), distances(before, truth)
        out[name] = {
            "psnr": round(float(np.mean([psnr(a, b) for a, b in zip(shown, example.target)])), 2),
            "face_found": round(len(both) / len(seen), 3),
            "distance": round(float(np.mean([np.linalg.norm(seen[i].identity - target[i].identity) for i in both])), 4),
            **{t: round(float(np.nanmedian(gain(after[t], without[t]))), 3) for t in ("pose", "expression", "light")},
        }
        print(f"{name:44} {out[name]}", flush=True)
    return out


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pairs", help="folder or s3:// prefix that `rigface pair` wrote")
    parser.add_argument("--model", default="mini")
    args = parser.parse_args()
    example = held_out_pairs(Store(args.pairs))
    figures = measure(example, args.model)
    harness.write("mini_limits", {**figures, "size": example.target.shape[1], **harness.environment()})


if __name__ == "__main__":
    main()
