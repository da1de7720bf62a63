"""Training with two workers, on Ray Train and without: the losses of a single process, through failures."""

import contextlib
import math
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.examples.config import EncodeConfig
from pipelines.examples.encode import encode
from pipelines.examples.example_index import ExampleIndex
from pipelines.train import batch_sampler, job, metric_log, ray_reader
from pipelines.train.backend import SNAPSHOT, LocalBackend
from pipelines.train.config import TrainConfig, debug
from pipelines.train.job import train
from rigface.errors import JobBroken
from rigface.model import checkpoint
from rigface.storage.store import Store
from rigface.testing import fake_examples, toy_start

pytestmark = pytest.mark.slow
BROKEN = 13  # the step whose loss is not finite


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    """Toy networks on latents, two micro_batches, in this process. One example, of step `BROKEN`, is not finite."""
    folder = tmp_path_factory.mktemp("train_ray")
    for k in range(2):
        part = folder / "pairs" / "examples" / f"{k:02x}" / f"{k:02x}part.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(fake_examples.table(70, seed=k), part)
    checkpoint.save(folder / "tiny", toy_start.shallow(middle=True, kind="bridge"))
    encode(EncodeConfig(str(folder / "pairs"), str(folder / "latents"), str(folder / "tiny")), lambda words: None)
    config = replace(
        debug(), examples=str(folder / "latents"), out=str(folder / "alone"), start=str(folder / "tiny"),
        micro_batches=2, batch=2,
        steps=15, checkpoint_every=3, validate_every=12, validation_examples=2, learning_rate=1e-3, cpus=0.5,
        shuffle_window=4,
    )  # fmt: skip
    order = order_of(config)
    assert config.steps <= order.steps_per_epoch, "the example would be seen again"
    window = next(order.windows([0, 1], BROKEN - 1))
    path = Path(config.examples, ExampleIndex.of(Store(config.examples)).parts[window.parts[0]].path)
    table, name = pq.read_table(path), "target_latents"
    values = table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1).copy()
    values[window.rows[0]] = np.inf
    kind = table.schema.field(name)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind.type.value_type), kind.type.list_size)
    pq.write_table(table.set_column(table.column_names.index(name), kind, column), path)
    return config


def order_of(config: TrainConfig) -> batch_sampler.BatchSampler:
    rows = ExampleIndex.of(Store(config.examples)).rows("train")
    return batch_sampler.BatchSampler(rows, config.batch, config.micro_batches, config.shuffle_window, config.seed)


@pytest.fixture(scope="module")
def alone(config) -> dict[int, float]:
    """The curve of a run without Ray."""
    train(config, lambda words: None)
    return losses(config.out)


def losses(out: str, name: str = "loss") -> dict[int, float]:
    """By step; not a number where the loss, or what `name` says, was not finite."""
    lines = [line for line in metric_log.lines(Store(out)) if "loss" in line]
    return {line["step"]: math.nan if line[name] is None else line[name] for line in lines}


def validations(out: str) -> dict[str, float]:
    """Numbers of the last validation."""
    lines = [line for line in metric_log.lines(Store(out)) if "validation/psnr" in line]
    return {name: value for name, value in lines[-1].items() if name.startswith("validation/")}


def curve(of: dict[int, float], until: int) -> dict[int, float]:
    """What the losses up to a step have to be."""
    return pytest.approx({step: loss for step, loss in of.items() if step <= until}, rel=2e-3, nan_ok=True)


def weights_of(out: str) -> dict[str, torch.Tensor]:
    """Of the newest model of a run."""
    return checkpoint.load(checkpoint.folder_of(f"{out}/model")).model.state_dict()


def when(out: str) -> dict[int, float]:
    return {line["step"]: line["time"] for line in metric_log.lines(Store(out)) if "loss" in line}


def kill_a_worker(out: str, killed: list[int], ended: threading.Event) -> None:
    """Wait until a checkpoint of Ray is complete, then kill one of the workers."""
    while not ended.wait(0.3):
        if Store(out).exists(SNAPSHOT):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        killed.append(process.pid)
                        process.kill()
                        return


@pytest.mark.timeout(1200)
def test_sharded_run_on_ray_keeps_the_loss_curve_through_a_kill_and_an_error_and_before_and_after_ray(
    config, alone, ray_cluster, bucket, tmp_path, monkeypatch
):
    """On object storage, where Ray's checkpoints are written by pyarrow and read by us.

    It begins without Ray, loses a worker, ends with an error that Ray Train must not repeat, and goes on without Ray.
    """
    monkeypatch.setenv("RIGFACE_CACHE", str(tmp_path))
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    run = replace(config, out=f"{bucket}/{tmp_path.name}", workers=2, sharding="hsdp", reader="thread", steps=BROKEN)
    train(replace(run, workers=0, sharding="ddp", steps=3), lambda words: None)  # a checkpoint that Ray did not write
    killed: list[int] = []
    ended = threading.Event()
    watcher = threading.Thread(target=kill_a_worker, args=(run.out, killed, ended), daemon=True)
    watcher.start()
    monkeypatch.setattr(job, "cause_of", lambda error: pytest.fail(f"an exception of the workers, repeated: {error}"))
    with pytest.raises(JobBroken, match=f"of 1 steps in a row, up to step {BROKEN},"):
        train(run, lambda words: None)
    ended.set()
    watcher.join()
    assert killed
    assert losses(run.out) == curve(alone, BROKEN)
    assert losses(run.out, "grad_norm") == curve(losses(config.out, "grad_norm"), BROKEN)
    assert checkpoint.start(f"{run.out}/model").config.process.kind == "bridge"
    before = {step: time for step, time in when(run.out).items() if step < BROKEN}

    train(replace(run, workers=0, sharding="ddp", steps=config.steps), lambda words: None)
    assert losses(run.out) == curve(alone, config.steps)
    assert before.items() <= when(run.out).items()  # finished steps are not repeated, and the log keeps them
    assert LocalBackend(Store(run.out)).names()[-1] == "step-00000015"
    one, other = weights_of(config.out), weights_of(run.out)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-3, rtol=2e-2)


def test_run_on_ray_returns_the_numbers_of_its_last_report(config, monkeypatch, tmp_path):
    result = SimpleNamespace(return_value=None, metrics={"step": 3, "loss": 0.5, "grid": "a picture"})
    monkeypatch.setattr(job, "connected", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("ray.train.torch.TorchTrainer", lambda *_, **__: SimpleNamespace(fit=lambda: result))
    run = replace(config, out=str(tmp_path / "out"), workers=2)
    assert train(run, lambda words: None) == {"step": 3, "loss": 0.5}


# One process starts the other, as a fork: each of its own would import the networks anew.
TWO_RANKS = """
import os, pickle, sys
from rigface.host_environment import spare_imports
spare_imports()
import torch
from pipelines.train.backend import LocalBackend
from pipelines.train.loop import loop
from rigface.storage.store import Store

class Rank(LocalBackend):
    rank, world = 1 if os.fork() else 0, 2
    def keep(self, *_, last):
        pass

runs, meeting = pickle.loads(bytes.fromhex(sys.argv[1]))
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=Rank.rank, world_size=2)
for run in runs:
    loop(run, Rank(Store(run.out)))
if Rank.rank:
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_two_workers_keep_losses_and_weights_with_a_model_each_by_ddp_and_by_hsdp(config, tmp_path):
    """HSDP as near as rounding lets it, DDP with gradients that are averaged in bfloat16 less near."""
    lone = replace(config, out=str(tmp_path / "lone"), steps=2, validation_examples=3)
    train(lone, lambda words: None)
    both = replace(lone, workers=2, reader="thread")
    ddp = replace(both, out=str(tmp_path / "ddp"), reduce_format="bfloat16")
    hsdp = replace(both, out=str(tmp_path / "hsdp"), sharding="hsdp", shard_workers=1)
    words = pickle.dumps(((ddp, hsdp), tmp_path / "meeting")).hex()
    subprocess.run([sys.executable, "-c", TWO_RANKS, words], check=True)
    expected = weights_of(lone.out)
    off = {}
    for run in (ddp, hsdp):
        for name in ("loss", "grad_norm"):
            assert losses(run.out, name) == pytest.approx(losses(lone.out, name), rel=1e-3)
        assert validations(run.out) == pytest.approx(validations(lone.out), rel=1e-3)  # by shares of two rows
        off[run.sharding] = sum((w - expected[name]).abs().sum().item() for name, w in weights_of(run.out).items())
    assert off["hsdp"] < 0.05 * off["ddp"] < 1, "in sum over 82,704 numbers that moved by up to 2e-3"


def test_ray_data_returns_windows_in_order(config, ray_cluster):
    index = ExampleIndex.of(Store(config.examples))
    order = batch_sampler.BatchSampler(index.rows("train"), batch=3, micro_batches=2, window=2, seed=3)
    columns = ["example"]
    start = 3  # in the middle of a window
    by_ray = ray_reader.read_with_ray(order.windows([0, 1], start), index.parts, columns)
    by_thread = batch_sampler.read_ahead(order.windows([0, 1], start), batch_sampler.Reader(index.parts, columns))
    for _, (ours, theirs) in zip(range(5), zip(by_thread, by_ray)):
        assert ours[0].first == theirs[0].first
        assert ours[1]["example"].to_pylist() == theirs[1]["example"].to_pylist()
