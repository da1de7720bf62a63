"""Training on Ray Train with two workers: the losses of a single process, through failures."""

import contextlib
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.examples.config import EncodeConfig
from pipelines.examples.encode import encode
from pipelines.train import batch_sampler, metric_log, ray_reader
from pipelines.train.backend import LocalBackend
from pipelines.train.config import TrainConfig, debug
from pipelines.train.job import train
from rigface.errors import JobBroken
from rigface.model import checkpoint
from rigface.storage.store import Store
from rigface.testing import fake_examples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    """Toy networks on latents, two micro_batches, in this process."""
    folder = tmp_path_factory.mktemp("train_ray")
    for k in range(2):
        part = folder / "pairs" / "examples" / f"{k:02x}" / f"{k:02x}part.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(fake_examples.table(24, seed=k), part)
    checkpoint.save(folder / "tiny", checkpoint.tiny(kind="bridge"))
    encode(EncodeConfig(str(folder / "pairs"), str(folder / "latents"), str(folder / "tiny")), lambda words: None)
    return replace(
        debug(), examples=str(folder / "latents"), out=str(folder / "alone"), start=str(folder / "tiny"),
        micro_batches=2, batch=2,
        steps=12, checkpoint_every=3, validate_every=12, validation_examples=2, learning_rate=1e-3, cpus=0.5,
        shuffle_window=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(config) -> dict[int, float]:
    """The curve of a run without Ray."""
    train(config, lambda words: None)
    return losses(config.out)


def losses(out: str) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metric_log.lines(Store(out)) if "loss" in line}


def when(out: str) -> dict[int, float]:
    return {line["step"]: line["time"] for line in metric_log.lines(Store(out)) if "loss" in line}


def kill_a_worker(out: str, killed: list[int], ended: threading.Event) -> None:
    """Wait for a checkpoint of the run, then kill one of its workers."""
    while not ended.wait(0.1):
        if any(Path(out, "ray").glob("step-*/.metadata")) and len(losses(out)) >= 8:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        killed.append(process.pid)
                        process.kill()
                        return


def test_run_resumed_on_ray_keeps_the_loss_curve_after_a_kill(config, alone, ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    run = replace(config, out=str(tmp_path), workers=2, reader="thread", validation_examples=0)
    killed: list[int] = []
    ended = threading.Event()
    watcher = threading.Thread(target=kill_a_worker, args=(run.out, killed, ended), daemon=True)
    train(replace(run, workers=0, steps=3), lambda words: None)  # a checkpoint that Ray did not write
    watcher.start()
    train(run, lambda words: None)
    ended.set()
    watcher.join()
    assert killed
    assert losses(run.out) == pytest.approx(alone, rel=2e-3)
    folders = [checkpoint.folder_of(f"{out}/model") for out in (config.out, run.out)]
    one, other = (checkpoint.load(folder).model.state_dict() for folder in folders)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-3, rtol=2e-2)


def test_run_whose_loss_is_not_finite_is_not_tried_again(config, ray_cluster, tmp_path):
    """Ray Train would repeat it `max_failures` times."""
    examples = tmp_path / "latents"
    for path in Path(config.examples).rglob("*.parquet"):
        table = pq.read_table(path)
        name = "target_latents"
        values = pa.array(np.full(len(table[name].combine_chunks().flatten()), np.inf, np.float16))
        kind = table.schema.field(name)
        broken = pa.FixedSizeListArray.from_arrays(values.cast(kind.type.value_type), kind.type.list_size)
        (copy := examples / path.relative_to(config.examples)).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.set_column(table.column_names.index(name), kind, broken), copy)
    run = replace(config, examples=str(examples), out=str(tmp_path / "out"), workers=1, reader="thread")
    with pytest.raises(JobBroken, match=r"^the loss or gradient of 10 steps in a row"):
        train(replace(run, validation_examples=0), lambda words: None)


def test_ray_data_returns_windows_in_order(config, ray_cluster):
    store = Store(config.examples)
    parts = sorted(store.paths("examples", ".parquet"))
    order = batch_sampler.BatchSampler(
        batch_sampler.usable_rows(store, parts, "train"), batch=3, micro_batches=2, window=2, seed=3
    )
    columns = ["example"]
    start = 3  # in the middle of a window
    by_ray = ray_reader.read_with_ray(order.windows([0, 1], start), store, parts, columns)
    by_thread = batch_sampler.read_ahead(order.windows([0, 1], start), batch_sampler.Reader(store, parts, columns))
    for _, (ours, theirs) in zip(range(5), zip(by_thread, by_ray)):
        assert ours[0].first == theirs[0].first
        assert ours[1]["example"].to_pylist() == theirs[1]["example"].to_pylist()


def test_sharded_weights_keep_the_loss_curve_and_resume_without_ray(
    config, alone, ray_cluster, bucket, tmp_path, monkeypatch
):
    """On object storage, where Ray's checkpoints are written by pyarrow and read by us."""
    monkeypatch.setenv("RIGFACE_CACHE", str(tmp_path))
    run = replace(
        config,
        out=f"{bucket}/{tmp_path.name}",
        workers=2,
        sharding="fsdp",
        steps=6,
        validate_every=6,
        reader="thread",
    )
    numbers = train(run, lambda words: None)
    assert losses(run.out) == pytest.approx({s: v for s, v in alone.items() if s <= 6}, rel=2e-3)
    assert numbers["step"] == 6
    assert checkpoint.start(f"{run.out}/model").config.process.kind == "bridge"
    before = when(run.out)
    train(replace(run, workers=0, sharding="ddp", steps=10), lambda words: None)
    assert losses(run.out) == pytest.approx({s: v for s, v in alone.items() if s <= 10}, rel=2e-3)
    assert before.items() <= when(run.out).items()  # finished steps are not repeated, and the log keeps them
    assert LocalBackend(Store(run.out)).names() == ["step-00000009", "step-00000010"]
