"""Training speed from pictures and latents, share of waiting for data, and memory saved by checkpointing.

    python benchmarks/train_speed.py                  under three minutes on two cores
    python benchmarks/train_speed.py --steps 8 --size 256 --batch 16      large enough for activations to count

Networks of the small model's kind with a convolutional autoencoder in the shape of Stable Diffusion's, on invented
examples; `pipelines.train.job` itself, one process per variant, so that each has a peak of memory of its own. From
pictures, the autoencoder encodes four pictures per example in every step; from latents (`rigface encode`) it never
runs.

What is waited for is the time between two steps in which no batch was ready; its share of a step, from latents, is held
against 5 %. From pictures the encoding falls into it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import torch

LIMIT = 0.05  # share of a step that may be spent waiting for data
WARM = 4  # steps that are not counted
VARIANTS = {
    "pictures": {"examples": "pairs"},
    "latents": {"examples": "latents"},
    "latents, checkpointing": {"examples": "latents", "gradient_checkpointing": True},
}


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """A checkpoint to start from, examples with pictures, and their latents."""
    import pyarrow.parquet as pq

    from pipelines.examples.config import EncodeConfig
    from pipelines.examples.encode import encode
    from rigface.model import checkpoint
    from rigface.model.model_config import ModelConfig, Process
    from rigface.testing import fake_examples

    config = ModelConfig(
        Process("bridge", bridge_noise=0.0, scheduler="euler", steps=1),
        head=fake_examples.HEAD, render_style="texture",
        size=args.size,
    )  # fmt: skip
    made = checkpoint.fresh(
        config, tuple(args.channels), (32, 64, 64, 64), expression=52, text=(2, 64), heads=4, layers=1, groups=32
    )
    checkpoint.save(folder / "start", made)
    for k in range(4):
        part = folder / "pairs" / "examples" / f"{k:02x}" / f"{k:02x}part.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(fake_examples.table(64, seed=k, size=args.size, style="texture"), part)
    encode(EncodeConfig(str(folder / "pairs"), str(folder / "latents"), str(folder / "start")), lambda words: None)


def child(folder: Path, name: str, args: argparse.Namespace) -> None:
    """One variant, in a process of its own; prints its figures as JSON."""
    from pipelines.train import metric_log
    from pipelines.train.config import debug
    from pipelines.train.job import train
    from rigface.storage.store import Store

    out = folder / "runs" / name.replace(", ", "-")
    changes: dict[str, Any] = dict(VARIANTS[name])
    changes["examples"] = str(folder / changes["examples"])
    config = replace(
        debug(), out=str(out), start=str(folder / "start"), batch=args.batch, steps=args.steps,
        number_format=args.number_format, threads=args.threads, shuffle_window=16, validation_examples=0,
        checkpoint_every=10**6, log_every=1, **changes,
    )  # fmt: skip
    train(config, lambda words: None)
    lines = [line for line in metric_log.lines(Store(str(out))) if "step_s" in line and line["step"] > WARM]
    work, wait = ([line[n] for line in lines] for n in ("step_s", "wait_s"))
    print(
        json.dumps(
            {
                "examples_per_s": round(args.batch * len(lines) / (sum(work) + sum(wait)), 2),
                "step_s": round(statistics.median(work), 4),
                "wait_share": round(sum(wait) / (sum(work) + sum(wait)), 4),
                "peak_memory_mb": peak_mb(),
            }
        )
    )


def peak_mb() -> int:
    """Peak memory of this process, MB; getrusage's figure would begin with that of the process it came from."""
    return round(int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024)


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="of the pictures, px")
    parser.add_argument("--channels", type=int, nargs="+", default=[96, 160], help="of the UNets' levels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--number-format", choices=("auto", "bfloat16", "float32"), default="float32")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        child(args.folder, args.variant, args)
        return
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rigface-") as folder:
        prepare(Path(folder), args)
        for name in VARIANTS:
            words = [sys.executable, __file__, *sys.argv[1:], "--variant", name, "--folder", folder]
            output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            result[name] = json.loads(output.strip().splitlines()[-1])
            print(f"{name:24} {result[name]}", flush=True)
    first, second, third = (result[name] for name in VARIANTS)
    result |= {
        "latents_times_faster": round(second["examples_per_s"] / first["examples_per_s"], 2),
        "wait_share_limit": LIMIT,
        "checkpointing_memory_share": round(third["peak_memory_mb"] / second["peak_memory_mb"], 2),
        "steps": args.steps, "batch": args.batch, "size": args.size, "channels": args.channels,
        "number_format": args.number_format, "threads": args.threads,
        "torch": torch.__version__, **harness.environment(),
    }  # fmt: skip
    name = f"{args.size} px, batch {args.batch}, channels {' '.join(map(str, args.channels))}"
    harness.write("train_speed", {**harness.read("train_speed"), name: result})
    print(json.dumps({k: v for k, v in result.items() if k not in VARIANTS}))


if __name__ == "__main__":
    main()
