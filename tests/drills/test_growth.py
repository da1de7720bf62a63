"""Drill: a node joins a training run, which continues with more workers and the same losses."""

import subprocess
import sys
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pipelines.examples.config import EncodeConfig
from pipelines.examples.encode import encode
from pipelines.train import metric_log
from pipelines.train.config import debug
from pipelines.train.job import train
from rigface.model import checkpoint
from rigface.storage.store import Store
from rigface.testing import fake_examples
from tests.drills.count import count_steps

STEPS = 120


def losses(out) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metric_log.lines(Store(str(out))) if "loss" in line]


@pytest.mark.slow
@pytest.mark.drill
def test_training_grows(tmp_path, results):
    part = tmp_path / "pairs" / "examples" / "00" / "part.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(fake_examples.table(48), part)
    checkpoint.save(tmp_path / "tiny", checkpoint.tiny(kind="bridge"))
    latents, start = str(tmp_path / "latents"), str(tmp_path / "tiny")
    encode(EncodeConfig(str(tmp_path / "pairs"), latents, start), lambda words: None)
    began = time.monotonic()
    words = [sys.executable, "-m", "tests.drills.grow", latents, start, str(tmp_path / "grown"), str(STEPS)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    seen = [int(n) for n in ran.stdout.split()]
    took = round(time.monotonic() - began, 1)
    alone = replace(
        debug(), examples=latents, start=start, out=str(tmp_path / "alone"), steps=STEPS, micro_batches=2,
        batch=2, learning_rate=1e-3,
        shuffle_window=4, checkpoint_every=STEPS, validate_every=STEPS, validation_examples=0,
    )  # fmt: skip
    train(alone, lambda words: None)
    count = count_steps(losses(alone.out), losses(tmp_path / "grown"), rel=5e-3)
    results.append({"drill": "training_grows", **count, "max_workers": max(seen), "seconds": took})
    assert (count["duplicates"], count["lost"], count["different"]) == (0, 0, 0)
    assert seen.index(1) < seen.index(2), seen
