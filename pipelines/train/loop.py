"""Training loop of one worker: batch, loss, optimizer step, weight average, checkpoints and validation.

Path: backend, config, batches -> `loop` -> checkpoints, logs, OUT/model.

Everything random in a step is a function of (seed, step, micro-batch): the order of examples, timesteps, noise,
dropout. So there is no generator to save, a resumed run repeats what the first would have done, and the number of
workers changes only rounding.
"""

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipelines import run_info
from pipelines.examples.example_index import ExampleIndex
from pipelines.telemetry import metrics
from pipelines.train import model_setup
from pipelines.train.backend import Backend
from pipelines.train.batches import Batches
from pipelines.train.config import TrainConfig
from pipelines.train.metric_log import MetricLog
from pipelines.train.optimizer import clip_gradients, learning_rate
from pipelines.train.pixel_loss import decoded_loss
from pipelines.train.step_progress import StepProgress
from pipelines.train.throughput import StepMeter
from pipelines.train.trainer_state import TrainerState
from pipelines.train.validation import Validation
from rigface.errors import JobBroken
from rigface.model import checkpoint as checkpoints
from rigface.model.diffusion import Dropout, draw, row_losses
from rigface.model.hub import model_card
from rigface.model.latents import LatentExample
from rigface.model.recipes.protocol import AdapterRecipe
from rigface.storage.store import Store
from rigface.storage.versions import POINTER, publish_version

MAX_SKIPPED = 10  # steps in a row whose loss or gradient is not finite; then the run ends
MODEL = "model"
ADAPTER = "adapter"


def loop(config: TrainConfig, backend: Backend) -> dict[str, float]:
    """Train until `config.steps`; returns the last numbers.

    Raises:
        PlanError, MissingAsset, BadCheckpoint: something to start from is missing or does not fit.
        OutputBusy: another run has taken the output over.
        JobBroken: the loss or the gradient was not finite for `MAX_SKIPPED` steps in a row, or in the last step.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = backend.device(config.gpu)
    if config.gpu:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    store, index = Store(config.out), ExampleIndex.of(*map(Store, config.folders))
    store.before_publish = backend.check
    state = TrainerState(config, index.spec, backend, device)
    with backend.latest() as folder:
        if folder is not None:
            state.load(folder)
    backend.check()  # before the log drops entries after the checkpoint
    is_first, as_json = backend.rank == 0, config.log_format == "json"
    log = MetricLog(store, is_first, state.step, as_json, config.track, asdict(config))
    micro_batches = list(range(backend.rank, config.micro_batches, backend.world))
    passes = math.ceil(config.micro_batches / backend.world)
    batches = Batches(config, index, state, micro_batches)
    validation = Validation(config, index, backend, state.loaded.config)
    began, numbers = time.monotonic(), {"step": float(state.step), "trained_parameters": float(state.trained)}
    skipped = in_a_row = 0
    if state.step == 0:
        numbers |= validation.run(state, log)
    if state.step >= config.steps:  # the same command once more
        if not is_exported(state, store):
            export(state, store, numbers)
        state.settle()
        log.close()
        return numbers
    shows = backend.rank == 0 and config.log_format == "text"  # json has lines of its own on standard error
    progress = StepProgress(state.step, config.steps) if shows else None
    meter = StepMeter(config, device, store, backend.rank)
    for step, examples, wait in batches:
        clock = time.perf_counter()
        with meter.step():
            loss, norm = _step(state, examples, micro_batches, passes, step)
        took = time.perf_counter() - clock
        line: dict[str, Any] = {"loss": loss, "wait_s": wait, "step_s": took, "wait_share": wait / (wait + took)}
        line |= {"samples_per_s": config.batch * config.micro_batches / (wait + took), "memory_mb": state.memory_mb()}
        line |= meter.mfu(took)
        line |= {"grad_norm": norm if math.isfinite(norm) else None}
        in_a_row = 0 if math.isfinite(loss) else in_a_row + 1
        skipped += in_a_row > 0
        if in_a_row:
            line |= {"loss": None}
        if skipped:
            line |= {"skipped_steps": skipped}
        numbers |= {"step": step, **line}
        metrics.step_of(backend.rank, step, loss, took, wait, config.batch * len(micro_batches))
        if progress is not None:
            progress.add(step, loss)
        stop = step >= config.steps or _is_time_up(config, backend, began, device)
        log.add({**line, "learning_rate": learning_rate(config, step)}, step, config.log_every)
        if in_a_row >= MAX_SKIPPED or (in_a_row and stop):
            if progress is not None:
                progress.close()
            meter.close()
            log.close(failed=True)
            state.settle()
            raise JobBroken(
                f"the loss or gradient of {in_a_row} steps in a row, up to step {step}, was not finite; they changed "
                "nothing, and the last checkpoint is from before. Use a lower --learning-rate or --number-format "
                "float32, or look at the examples. The same command goes on from the checkpoint; if that is "
                "damaged, delete it first"
            )
        if in_a_row:
            continue
        if step % config.validate_every == 0 or step == config.steps:
            with metrics.train_time(backend.rank, "validation"):
                numbers |= validation.run(state, log)
            metrics.validated(backend.rank, numbers)
        if step % config.checkpoint_every == 0 or stop:
            backend.check()
            log.flush(board=True)
            with metrics.train_time(backend.rank, "checkpoint"):
                backend.keep(step, numbers, state.save, last=stop)
        if step % config.validate_every == 0 or stop:
            export(state, store, numbers)
        if progress is not None:
            progress.pause()
        if stop:
            break
    if progress is not None:
        progress.close()
    meter.close()
    state.settle()
    log.close()
    return {name: value for name, value in numbers.items() if isinstance(value, int | float)}


def _is_time_up(config: TrainConfig, backend: Backend, began: float, device: torch.device) -> bool:
    """True after `stop_after_s`, on all workers alike, as their clocks differ."""
    if not config.stop_after_s:
        return False
    is_late = torch.tensor(float(time.monotonic() - began > config.stop_after_s), device=device)
    if backend.world > 1:
        torch.distributed.all_reduce(is_late)
    return bool(is_late > 0)


def _step(
    state: TrainerState, examples: list[LatentExample], micro_batches: list[int], passes: int, step: int
) -> tuple[float, float]:
    """One step of the optimizer; the loss over all workers' micro-batches, and the gradient's norm before clipping.

    A loss or gradient that is not finite skips the optimizer's step, on all workers alike; the loss is NaN then.
    """
    config, total = state.config, torch.zeros((), device=state.device)
    rate = learning_rate(config, step)
    for group, scale in zip(state.optimizer.param_groups, state.rate_scales):
        group["lr"] = rate * scale
    dropout = Dropout(*[config.condition_dropout] * 4)
    process = state.loaded.config.process
    for k in range(passes):
        micro_batch = micro_batches[min(k, len(micro_batches) - 1)]
        weight = 1.0 if k < len(micro_batches) else 0.0  # an idle pass keeps the collectives in step
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 4099 + micro_batch)
        with model_setup.synchronised(state.wrapped, k == passes - 1), state.autocast():
            example = examples[min(k, len(examples) - 1)].map(lambda t: t.float())
            drawn = draw(process, example.target, dropout, generator, config.noise_offset)
            if process.kind == "bridge":
                at_start = math.ceil(config.start_step_fraction * len(drawn.timestep))
                drawn.timestep[:at_start] = process.train_timesteps
            if config.pixel_loss_weight:
                pixel_loss, latent_loss = decoded_loss(state.wrapped, state.loaded.vae, example, process, drawn)
                loss = config.pixel_loss_weight * pixel_loss + latent_loss
            else:
                loss = row_losses(state.wrapped, example, process, drawn, config.min_snr_gamma).mean()
            share = loss * (weight / config.micro_batches)
            (share * state.backend.world).backward()  # DDP and FSDP average over workers
        total += share.detach()
    learning = [p for p in state.inner.parameters() if p.requires_grad]
    norm = clip_gradients(learning, config.max_grad_norm)
    if state.backend.world > 1:
        torch.distributed.all_reduce(total)
    whole = total.item() if norm.isfinite() else math.nan  # of all workers, as the norm is
    if math.isfinite(whole):
        state.optimizer.step()
        state.average.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step = step
    return whole, norm.item()


def is_exported(state: TrainerState, store: Store) -> bool:
    """True if the newest version of OUT/model is of this step: a run may be killed between checkpoint and export."""
    pointer = f"{MODEL}/{POINTER}"
    return store.exists(pointer) and store.read(pointer).decode().startswith(f"{_version(state)}-")


def _version(state: TrainerState) -> str:
    return f"step-{state.step:08d}"


def export(state: TrainerState, store: Store, numbers: Mapping[str, float]) -> None:
    """Begin to publish the averaged model as a version of OUT/model, and its adapter as OUT/adapter.

    Every worker calls it; `TrainerState.settle` waits for its end.
    `numbers` of the last validation are told by the model cards.
    """
    weights = state.averaged()
    if not state.backend.rank:
        version, trained = _version(state), _trained(state, numbers)
        state.in_background(lambda: _publish(state, store, version, weights, trained))


def _publish(
    state: TrainerState, store: Store, version: str, weights: dict[str, torch.Tensor], trained: model_card.Trained
) -> None:
    """Publish weights beside the training, which changes those of the model."""
    with tempfile.TemporaryDirectory() as folder:
        model, adapter = Path(folder, MODEL), Path(folder, ADAPTER)
        if isinstance(state.recipe, AdapterRecipe):
            adapter.mkdir()
            state.recipe.write_adapter(adapter, state.loaded, weights)
            (adapter / "README.md").write_text(model_card.card(state.loaded.config, trained, is_adapter=True))
        # A bridge predicts the change from its start, which a smaller output layer reduces.
        output = (name for name in weights if name.startswith("denoiser.conv_out."))
        weights |= {name: weights[name] * state.config.output_scale for name in output}
        checkpoints.save(model, state.loaded, weights=weights, dtype=torch.float16, trained=trained)
        for local in Path(folder).iterdir():
            publish_version(store, local.name, version, local)


def _trained(state: TrainerState, numbers: Mapping[str, float]) -> model_card.Trained:
    """The run as its model card tells it."""
    config, prefix = state.config, "validation/"
    figures = {n.removeprefix(prefix): v for n, v in numbers.items() if n.startswith(prefix) and math.isfinite(v)}
    batch = config.batch * config.micro_batches
    return model_card.Trained(
        config.start, state.step, batch, config.learning_rate, figures, run_info.git_commit().rstrip("+")
    )
