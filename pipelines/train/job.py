"""Fine-tune RigFace, or train a small model from scratch: examples in, a model folder out.

    OUT/rigface.json     the config, the commit, the data
    OUT/model            versions of the averaged weights as checkpoint folders, for `edit`, `serve` and `evaluate`
    OUT/adapter          of recipes that add to a frozen model: versions of what is trained, alone
    OUT/checkpoints      to go on from, written without Ray; OUT/ray with it; the newest of both counts
    OUT/log              a JSON line per logged step, grids of held-out edits; OUT/tensorboard; OUT/index.html

A stopped or killed run goes on with the next batch when the same command is run again, and so do its logs.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from pipelines import run_info
from pipelines.cluster.ray_errors import cause_of
from pipelines.cluster.session import connected
from pipelines.examples.example_index import INDEX, ExampleIndex, check_alike
from pipelines.examples.layout import examples_hash
from pipelines.train import model_setup, report
from pipelines.train.backend import LocalBackend, RayBackend
from pipelines.train.config import TrainConfig
from pipelines.train.loop import loop
from pipelines.train.optimizer import groups_of
from rigface.errors import JobBroken, PlanError
from rigface.examples import LatentSpec
from rigface.model.recipes.protocol import recipe_of
from rigface.storage import lock
from rigface.storage.store import Store

RESIZE_S = 60.0  # interval at which an elastic run checks for room for another worker
TRAINED = ("model", "checkpoints")  # folders of an output that show that something was trained
FIXED = (
    "examples", "more_examples", "weights",
    "start", "autoencoder", "networks", "optimizer", "lr_groups", "decay",
    "process", "zero_terminal_snr", "noise_offset",
    "recipe", "recipe_weights", "lora_rank",
    "subject", "prompt", "token", "token_rows", "batch", "micro_batches",
    "shuffle_window", "seed",
)  # fmt: skip


def train(config: TrainConfig, say: Callable[[str], None] = print) -> dict[str, float]:
    """Train until `config.steps`; returns the last numbers.

    Raises:
        PlanError: settings that do not fit each other, the examples or the content of OUT.
        MissingAsset, BadCheckpoint: the model to start from is missing, or does not fit.
        OutputBusy: another run writes to this output.
        JobBroken: workers died more often than `max_failures` allows.
    """
    config = config.scaled()
    store, sources = Store(config.out), _sources(config)
    say(config.scale())
    with lock.hold(store) as check:
        _claim(store, config)
        for source in (source for source in sources if not source.exists(INDEX)):
            say(
                f"{source.uri} has no {INDEX}, so every worker reads columns of all its parts first; the command "
                "that made it writes one when it is run again"
            )
        numbers = _on_ray(config, store) if config.workers else _in_process(config, store, check)
        check()
        report.write(store)
    say(f"{store.uri}/model: " + ", ".join(f"{k} {v:.4g}" for k, v in sorted(numbers.items())))
    return numbers


def preview(config: TrainConfig) -> str:
    """What `train` would do with this config, in words; nothing is written. Raises as `train` does."""
    config = config.scaled()
    index = ExampleIndex.of(*_sources(config))
    loaded = recipe_of(config.recipe).build(
        model_setup.load(config, index.spec), model_setup.options(config, index.spec)
    )
    model_setup.check(loaded, index.spec, LatentSpec.of(index.schema))
    shown, steps = config.batch * config.micro_batches, config.steps
    learned, held_out = (int(index.is_of(split).sum()) for split in ("train", "test"))
    learning = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    trained, whole = (sum(p.numel() for p in some) for some in (learning.values(), loaded.model.parameters()))
    lines = [
        f"examples: {learned:,} to learn from, {held_out:,} held out, in {len(index.parts):,} parts",
        f"steps: {steps:,} ({steps * shown / max(learned, 1):.1f} epochs), {config.scale()}",
        f"start: {config.start}, recipe {config.recipe}, process {loaded.config.process.kind}, {loaded.config.size} px",
        f"trained: {trained:,} of {whole:,} numbers; weights, gradients, optimizer and average "
        f"{(4 * whole + 12 * trained + 4 * trained) / 2**30:.2f} GiB in float32, on one worker",
    ]
    total = sum(config.weights)
    for folder, weight in zip(config.folders, config.weights):
        lines.append(f"  {folder}: {weight / total:.1%} of every step")
    for group in groups_of(config, learning):
        lines.append(f"  {group}, learning rate {config.learning_rate * group.scale:g}")
    return "\n".join(lines)


def _sources(config: TrainConfig) -> list[Store]:
    """The folders of examples; PlanError if they cannot be trained on together."""
    sources = [Store(folder) for folder in config.folders]
    if config.weights and len(config.weights) != len(sources):
        raise PlanError(f"--weights: want one per folder of examples, {len(sources)}, got {len(config.weights)}")
    if config.more_examples:
        check_alike(sources)
    return sources


def _claim(store: Store, config: TrainConfig) -> None:
    """Write the run information, after checking that a run of this output may go on with this config."""
    settings = json.loads(json.dumps(asdict(config)))
    examples = examples_hash(*map(Store, config.folders))
    before = run_info.load_own(store, "train", TRAINED) or {"runs": []}
    if not any(True for folder in (*TRAINED, "ray") for _ in store.paths(folder)):  # refused before its first step
        before |= {"config": settings, "examples": examples}
    default = json.loads(json.dumps(asdict(TrainConfig())))  # a run from before there was a setting had that
    own = {n: before["config"].get(n, default[n]) for n in FIXED}
    changed = [n for n in FIXED if own[n] != settings[n]]
    if changed:
        values = f" ({own[changed[0]]})" if len(changed) == 1 else ""
        raise PlanError(
            f"{store.uri} began with other {', '.join(changed)}{values}: its checkpoints do not fit these. Choose "
            "another OUT"
        )
    if before.get("examples", examples) != examples:
        raise PlanError(
            f"{' + '.join(config.folders)} holds other examples than when {store.uri} began, so its order of examples "
            "would change. Put them back, or choose another OUT"
        )
    run = {**run_info.software(), "config": settings}
    runs = [*before["runs"], run][-run_info.MAX_RUNS :]
    run_info.write(store, {"config": settings, "examples": examples, "runs": runs})


def _in_process(config: TrainConfig, store: Store, check: Callable[[], None]) -> dict[str, float]:
    backend = LocalBackend(store, config.keep_checkpoints, check)
    try:
        return loop(config, backend)
    finally:
        backend.wait()


def _work(config: TrainConfig, holder: str) -> JobBroken | None:
    """The loop of one Ray Train worker; `holder`: see `lock.holder`.

    Returns the error of all workers alike that another try would only repeat: Ray Train tries again after any
    exception.
    """
    try:
        loop(config, RayBackend(config.out, holder))
    except JobBroken as e:
        return e
    return None


def _on_ray(config: TrainConfig, store: Store) -> dict[str, float]:
    workers = config.workers if config.max_workers <= config.workers else (config.workers, config.max_workers)
    cpus = config.workers * (config.cpus + 0.5) + 1  # the loop's readers, and the trainer itself
    with connected(config.address, cpus):
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        trainer = TorchTrainer(
            partial(_work, config, lock.holder(store)),  # type: ignore[arg-type]  # Train v2 hands its value on
            torch_config=TorchConfig(backend="nccl" if config.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers,  # type: ignore[arg-type]  # of Train v2, which typing does not see
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
            failures = [getattr(each, "_base_exc", each) for each in getattr(e, "worker_failures", {}).values()]
            raise next(filter(None, map(cause_of, [*failures, e])), None) or JobBroken(
                f"training ended with {type(e).__name__}: {e}"
            ) from e
        if isinstance(result.return_value, JobBroken):  # type: ignore[attr-defined]  # of Train v2
            raise result.return_value  # type: ignore[attr-defined]
    return {k: v for k, v in (result.metrics or {}).items() if isinstance(v, int | float)}
