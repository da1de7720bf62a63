"""The loop of one worker: batch, loss, step, average, and now and then a checkpoint and a look at held-out edits.

Path: session, config, feed -> `loop` -> checkpoints, logs, OUT/model.

Everything random in a step is a function of (seed, step, micro_batch): the order of examples, timesteps, noise, omissions. So there
is no generator to save, a resumed run repeats what the first would have done, and the number of workers changes nothing
but rounding. The position is the step.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import Tensor

from pipelines.examples.layout import parts_of, spec_of
from pipelines.telemetry import metrics
from pipelines.train import model_setup
from pipelines.train.backend import Backend
from pipelines.train.batches import Batches
from pipelines.train.config import TrainConfig
from pipelines.train.metric_log import MetricLog
from pipelines.train.trainer_state import TrainerState
from pipelines.train.validation import Validation
from rigface.model import checkpoint as checkpoints
from rigface.model import finetuning
from rigface.model.diffusion import Dropout, draw, row_losses
from rigface.model.latents import LatentExample
from rigface.model.pixel_loss import decoded_loss
from rigface.storage.store import Store

MODEL = "model"
ADAPTER = "adapter"


def loop(config: TrainConfig, session: Backend) -> dict[str, float]:
    """Train until `config.steps`; returns the last numbers.

    Raises:
        PlanError, MissingAsset, BadCheckpoint: something to start from is missing or does not fit.
        OutputBusy: another run has taken the output over.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = session.device(config.gpu)
    if config.gpu:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    store, source = Store(config.out), Store(config.examples)
    parts = parts_of(source)
    trainee = TrainerState(config, spec_of(source, parts), session, device)
    with session.latest() as folder:
        if folder is not None:
            trainee.load(folder)
    session.check()  # before the diary forgets what came after the checkpoint
    journal = MetricLog(store, session.rank == 0, trainee.step, config.log_format == "json")
    micro_batches = list(range(session.rank, config.micro_batches, session.world))
    passes = math.ceil(config.micro_batches / session.world)
    batches = Batches(config, source, parts, trainee, micro_batches)
    validation = Validation(config, source, session)
    began, numbers = time.monotonic(), {"step": float(trainee.step)}
    if trainee.step == 0 and trainee.step < config.steps:
        numbers |= validation.look(trainee, journal)
    for step, examples, wait in batches:
        clock = time.perf_counter()
        loss = _step(trainee, examples, micro_batches, passes, step)
        took = time.perf_counter() - clock
        line = {"loss": loss, "wait_s": wait, "step_s": took, "wait_share": wait / (wait + took)}
        numbers |= {"step": step, **line}
        metrics.step_of(session.rank, step, loss, took, wait, config.batch * len(micro_batches))
        stop = step >= config.steps or _late(config, session, began, device)
        journal.add({**line, "learning_rate": trainee.optimizer.param_groups[0]["lr"]}, step, config.log_every)
        if step % config.validate_every == 0 or step == config.steps:
            with metrics.train_time(session.rank, "validation"):
                numbers |= validation.look(trainee, journal)
            metrics.validated(session.rank, numbers)
        if step % config.checkpoint_every == 0 or stop:
            session.check()
            journal.flush(board=True)
            with metrics.train_time(session.rank, "checkpoint"):
                session.keep(step, numbers, trainee.save, last=stop)
        if step % config.validate_every == 0 or stop:
            export(trainee, store)
        if stop:
            break
    journal.close()
    return {name: value for name, value in numbers.items() if isinstance(value, int | float)}


def _late(config: TrainConfig, session: Backend, began: float, device: torch.device) -> bool:
    """Whether the time is up; workers' clocks differ, so they agree on it."""
    if not config.stop_after_s:
        return False
    late = torch.tensor(float(time.monotonic() - began > config.stop_after_s), device=device)
    if session.world > 1:
        torch.distributed.all_reduce(late)
    return bool(late > 0)


def _step(
    trainee: TrainerState, examples: list[LatentExample], micro_batches: list[int], passes: int, step: int
) -> float:
    """One step of the optimizer; the loss over all workers' micro_batches."""
    config, total = trainee.config, torch.zeros((), device=trainee.device)
    rate = learning_rate(config, step)
    for group in trainee.optimizer.param_groups:
        group["lr"] = rate
    dropout = Dropout(*[config.condition_dropout] * 4)
    process = trainee.loaded.config.process
    for k in range(passes):
        micro_batch = micro_batches[min(k, len(micro_batches) - 1)]
        weight = 1.0 if k < len(micro_batches) else 0.0  # an idle pass keeps the collectives in step
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 4099 + micro_batch)
        with model_setup.synchronised(trainee.wrapped, k == passes - 1), trainee.autocast():
            example = examples[min(k, len(examples) - 1)].map(lambda t: t.float())
            drawn = draw(process, example.target, dropout, generator)
            start_step_fraction = (
                math.ceil(config.start_step_fraction * len(drawn.timestep)) if process.kind == "bridge" else 0
            )
            drawn.timestep[:start_step_fraction] = process.train_timesteps
            if config.pixel_loss_weight:
                shown, hidden = decoded_loss(trainee.wrapped, trainee.loaded.vae, example, process, drawn)
                loss = config.pixel_loss_weight * shown + hidden
            else:
                loss = row_losses(trainee.wrapped, example, process, drawn, config.min_snr_gamma).mean()
            share = loss * (weight / config.micro_batches)
            (share * trainee.session.world).backward()  # DDP and FSDP average over workers
        total += share.detach()
    torch.nn.utils.clip_grad_norm_([p for p in trainee.inner.parameters() if p.requires_grad], config.max_grad_norm)
    trainee.optimizer.step()
    trainee.optimizer.zero_grad(set_to_none=True)
    trainee.average.update()
    trainee.step = step
    if trainee.session.world > 1:
        torch.distributed.all_reduce(total)
    return total.item()


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step (from 1): linear warm-up, then constant, or a cosine to a hundredth."""
    warm = min(1.0, step / max(config.warmup_steps, 1))
    if config.schedule == "constant":
        return config.learning_rate * warm
    progress = min(1.0, max(0.0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
    return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def export(trainee: TrainerState, store: Store) -> None:
    """Write the averaged model as a checkpoint folder, and with LoRA its adapter beside it. Every worker calls it."""
    import tempfile

    weights = trainee.averaged()
    if trainee.session.rank:
        return
    trainee.session.check()
    with tempfile.TemporaryDirectory() as folder:
        model, adapter = Path(folder, MODEL), Path(folder, ADAPTER)
        if trainee.config.trainable == "lora":
            merged = model_setup.load(trainee.config, trainee.spec)
            finetuning.save_adapter(merged.model, weights, trainee.config.lora_rank, adapter)
            checkpoints.save(model, merged, dtype=torch.float16)
        else:
            weights = _trusted(weights, trainee.config.output_scale)
            checkpoints.save(model, trainee.loaded, weights=weights, dtype=torch.float16)
        files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
        for file in sorted(files, key=lambda p: p == model / "config.json"):  # it makes the folder a checkpoint
            store.publish(str(file.relative_to(folder)), file.read_bytes())


def _trusted(weights: dict[str, Tensor], output_scale: float) -> dict[str, Tensor]:
    """The weights with the last layer scaled: a bridge's answer is the way from its start, and this shortens it."""
    if output_scale == 1:
        return weights
    return {name: w * output_scale if name.startswith("denoiser.conv_out.") else w for name, w in weights.items()}
