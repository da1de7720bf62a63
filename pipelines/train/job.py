"""Fine-tune RigFace, or make a small one from nothing: examples in, a model folder out.

    OUT/rigface.json     the config, the commit, the data
    OUT/model            the averaged weights as a checkpoint folder: what `edit`, `serve` and `evaluate` load
    OUT/checkpoints      to go on from, written without Ray; OUT/ray with it; the newest of both counts
    OUT/log              a JSON line per logged step, grids of held-out edits; OUT/tensorboard; OUT/index.html

Stopped or killed, run the same command again: it goes on with the next batch, and the curve goes on with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pipelines.run_info import git_commit, versions
from pipelines.train.config import Networks, TrainConfig
from rigface.errors import JobBroken, PlanError
from rigface.storage import lock
from rigface.storage.store import Store

ABOUT = "rigface.json"
RESIZE_S = 60.0  # an elastic run looks so often whether there is room for another worker
FIXED = (
    "examples", "start", "autoencoder", "networks", "trainable", "lora_rank", "batch", "micro_batches", "shuffle_window", "seed",
)  # fmt: skip


def train(config: TrainConfig, say: Callable[[str], None] = print) -> dict[str, float]:
    """Train until `config.steps`; returns the last numbers.

    Raises:
        PlanError: settings that do not fit each other, the examples or what OUT holds.
        MissingAsset, BadCheckpoint: what to start from is not there, or does not fit.
        OutputBusy: another run writes to this output.
        JobBroken: workers died more often than `max_failures` allows.
    """
    from pipelines.train import report

    store = Store(config.out)
    with lock.hold(store) as check:
        _about(store, config)
        numbers = _on_ray(config, store) if config.workers else _alone(config, store, check)
        check()
        report.write(store)
    say(f"{store.uri}/model: " + ", ".join(f"{k} {v:.4g}" for k, v in sorted(numbers.items())))
    return numbers


def _about(store: Store, config: TrainConfig) -> None:
    """rigface.json: written anew, after seeing that the run is the one this output began with."""
    now = json.loads(json.dumps(asdict(config)))
    try:
        before = json.loads(store.read(ABOUT))
    except FileNotFoundError:
        before = {"config": now, "runs": []}
    changed = [name for name in FIXED if before["config"].get(name) != now[name]]
    if changed:
        raise PlanError(
            f"{store.uri} began with other {', '.join(changed)}: its checkpoints would not mean the same. Choose another OUT"
        )
    run = {"commit": git_commit(), "packages": versions(), "config": now}
    store.publish(ABOUT, json.dumps({"config": now, "runs": [*before["runs"], run][-20:]}, indent=1).encode())


def _alone(config: TrainConfig, store: Store, check: Callable[[], None]) -> dict[str, float]:
    from pipelines.train.backend import LocalBackend
    from pipelines.train.loop import loop

    session = LocalBackend(store, config.keep_checkpoints, check)
    try:
        return loop(config, session)
    finally:
        session.wait()


def work(raw: dict[str, Any]) -> None:
    """The loop of one Ray Train worker; `raw` holds a TrainConfig as a dict, and whose the output is."""
    from pipelines.train.backend import RayBackend
    from pipelines.train.loop import loop

    config = config_of(raw["config"])
    loop(config, RayBackend(config.out, raw["lease"]))


def config_of(raw: dict[str, Any]) -> TrainConfig:
    """A config back from plain values."""
    networks: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw["networks"].items()}
    return TrainConfig(**{**raw, "networks": Networks(**networks)})


def _on_ray(config: TrainConfig, store: Store) -> dict[str, float]:
    from pipelines.cluster.session import connected

    most = config.max_workers or config.workers
    workers: Any = config.workers if most == config.workers else (config.workers, most)
    cpus = config.workers * (config.cpus + 0.5) + 1  # the loop's readers, and the trainer itself
    with connected(config.address, cpus):
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        trainer = TorchTrainer(
            work,
            train_loop_config={"config": json.loads(json.dumps(asdict(config))), "lease": lock.lease_of(store)},
            torch_config=TorchConfig(backend="nccl" if config.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=config.gpu,
                resources_per_worker={"CPU": config.cpus, **({"GPU": 1} if config.gpu else {})},
                elastic_resize_monitor_interval_s=RESIZE_S,  # type: ignore[call-arg]  # of Train v2, which typing does not see
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=store.root,
                storage_filesystem=store.fs,
                failure_config=FailureConfig(max_failures=config.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
            ),
        )
        try:
            result = trainer.fit()
        except TrainingFailedError as e:
            raise JobBroken(f"training ended with {type(e).__name__}: {e}") from e
    return {k: v for k, v in (result.metrics or {}).items() if isinstance(v, int | float)}
