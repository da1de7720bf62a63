"""The loop of one worker: batch, loss, step, average, and now and then a checkpoint and a look at held-out edits.

Path: session, config, feed -> `loop` -> checkpoints, logs, OUT/model.

Everything random in a step is a function of (seed, step, lane): the order of examples, timesteps, noise, omissions. So there
is no generator to save, a resumed run repeats what the first would have done, and the number of workers changes nothing
but rounding. The position is the step.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from pipelines.examples.encode import parts_of, spec_of
from pipelines.telemetry import metrics
from pipelines.train import model_setup
from pipelines.train.backend import Session
from pipelines.train.batches import Batches
from pipelines.train.config import TrainConfig
from pipelines.train.metric_log import Journal
from pipelines.train.validation import Validation
from rigface.errors import PlanError
from rigface.examples import ExampleSpec
from rigface.model import checkpoint as checkpoints
from rigface.model import finetuning
from rigface.model.checkpoint import Checkpoint
from rigface.model.diffusion import Dropout, draw, row_losses
from rigface.model.ema import Average
from rigface.model.latents import LatentExample
from rigface.model.pixel_loss import decoded_loss
from rigface.storage.store import Store

MODEL = "model"


class Trainee:
    """A model in training, with all that a checkpoint holds.

    Args:
        spec: of the examples. session: rank and world decide how it is wrapped.
    """

    def __init__(self, config: TrainConfig, spec: ExampleSpec, session: Session, device: torch.device) -> None:
        self.config, self.spec, self.session, self.device = config, spec, session, device
        self.loaded: Checkpoint = model_setup.load(config, spec)
        if config.trust != 1 and self.loaded.config.process.kind != "bridge":
            raise PlanError(
                f"trust is for a bridge from the preview; this model is {self.loaded.config.process.kind!r}"
            )
        self.inner = self.loaded.model
        self.trained = finetuning.select(self.inner, config.tune, config.lora_rank)
        if config.checkpointing:
            self.inner.enable_gradient_checkpointing()
        self.inner.train().to(device)
        self.loaded.vae.to(device)  # type: ignore[arg-type]
        self.wrapped = model_setup.wrap(self.inner, config, session.world, device)
        learning = [p for p in self.inner.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            learning,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.99),
            fused=device.type == "cuda",
        )
        self.average = Average(self.inner, config.decay)
        self.step = 0
        if config.compile:
            self.inner.denoiser.compile()
            self.inner.identity.compile()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, as sharded as the model is."""
        model, optimizer = get_state_dict(self.inner, self.optimizer)
        return {"model": model, "optimizer": optimizer, "average": self.average.state(), "step": self.step}

    def save(self, folder: Path) -> None:
        """Fill a folder; every worker writes its share."""
        with _quiet():
            dcp.save(self.state(), checkpoint_id=folder, no_dist=self.session.world == 1)

    def load(self, folder: Path) -> None:
        """The inverse of `save`, whatever the number of workers and the sharding were then."""
        if not self.optimizer.state:
            _make_room(self.optimizer)
        state = self.state()
        with _quiet():
            dcp.load(state, checkpoint_id=folder, no_dist=self.session.world == 1)
        set_state_dict(self.inner, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.average.load(state["average"])
        self.step = int(state["step"])

    def averaged(self) -> dict[str, Tensor]:
        """The whole averaged model on the first worker's CPU, under stock names. Every worker calls it."""
        with self.average.swapped():
            whole: Any = get_model_state_dict(
                self.inner, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
            )
        return finetuning.merged(whole)

    def autocast(self) -> AbstractContextManager:
        """bfloat16, where the config wants it and FSDP does not see to it."""
        wanted = self.config.bf16 and self.config.sharding != "fsdp"
        return torch.autocast(self.device.type, torch.bfloat16) if wanted else contextlib.nullcontext()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that one process is one process, and without its logger's 14 lines per checkpoint."""
    logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        yield


def _make_room(optimizer: torch.optim.Optimizer) -> None:
    """Give a fresh optimizer its state, so that a checkpoint has somewhere to go; a step of size zero."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate


def loop(config: TrainConfig, session: Session) -> dict[str, float]:
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
    trainee = Trainee(config, spec_of(source, parts), session, device)
    with session.latest() as folder:
        if folder is not None:
            trainee.load(folder)
    session.check()  # before the diary forgets what came after the checkpoint
    journal = Journal(store, session.rank == 0, trainee.step, config.log_format == "json")
    lanes = list(range(session.rank, config.lanes, session.world))
    passes = math.ceil(config.lanes / session.world)
    batches = Batches(config, source, parts, trainee, lanes)
    validation = Validation(config, source, session)
    began, numbers = time.monotonic(), {"step": float(trainee.step)}
    if trainee.step == 0 and trainee.step < config.steps:
        numbers |= validation.look(trainee, journal)
    for step, examples, wait in batches:
        clock = time.perf_counter()
        loss = _step(trainee, examples, lanes, passes, step)
        took = time.perf_counter() - clock
        line = {"loss": loss, "wait_s": wait, "step_s": took, "wait_share": wait / (wait + took)}
        numbers |= {"step": step, **line}
        metrics.step_of(session.rank, step, loss, took, wait, config.batch * len(lanes))
        stop = step >= config.steps or _late(config, session, began, device)
        journal.add({**line, "rate": trainee.optimizer.param_groups[0]["lr"]}, step, config.log_every)
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


def _late(config: TrainConfig, session: Session, began: float, device: torch.device) -> bool:
    """Whether the time is up; workers' clocks differ, so they agree on it."""
    if not config.stop_after_s:
        return False
    late = torch.tensor(float(time.monotonic() - began > config.stop_after_s), device=device)
    if session.world > 1:
        torch.distributed.all_reduce(late)
    return bool(late > 0)


def _step(trainee: Trainee, examples: list[LatentExample], lanes: list[int], passes: int, step: int) -> float:
    """One step of the optimizer; the loss over all workers' lanes."""
    config, total = trainee.config, torch.zeros((), device=trainee.device)
    rate = learning_rate(config, step)
    for group in trainee.optimizer.param_groups:
        group["lr"] = rate
    dropout = Dropout(*[config.dropout] * 4)
    process = trainee.loaded.config.process
    for k in range(passes):
        lane = lanes[min(k, len(lanes) - 1)]
        weight = 1.0 if k < len(lanes) else 0.0  # an idle pass keeps the collectives in step
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 4099 + lane)
        with model_setup.synchronised(trainee.wrapped, k == passes - 1), trainee.autocast():
            example = examples[min(k, len(examples) - 1)].map(lambda t: t.float())
            drawn = draw(process, example.target, dropout, generator)
            at_start = math.ceil(config.at_start * len(drawn.timestep)) if process.kind == "bridge" else 0
            drawn.timestep[:at_start] = process.train_timesteps
            if config.picture_weight:
                shown, hidden = decoded_loss(trainee.wrapped, trainee.loaded.vae, example, process, drawn)
                loss = config.picture_weight * shown + hidden
            else:
                loss = row_losses(trainee.wrapped, example, process, drawn, config.min_snr).mean()
            share = loss * (weight / config.lanes)
            (share * trainee.session.world).backward()  # DDP and FSDP average over workers
        total += share.detach()
    torch.nn.utils.clip_grad_norm_([p for p in trainee.inner.parameters() if p.requires_grad], config.clip)
    trainee.optimizer.step()
    trainee.optimizer.zero_grad(set_to_none=True)
    trainee.average.update()
    trainee.step = step
    if trainee.session.world > 1:
        torch.distributed.all_reduce(total)
    return total.item()


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step (from 1): linear warm-up, then constant, or a cosine to a hundredth."""
    warm = min(1.0, step / max(config.warmup, 1))
    if config.schedule == "constant":
        return config.learning_rate * warm
    progress = min(1.0, max(0.0, step - config.warmup) / max(1, config.steps - config.warmup))
    return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def export(trainee: Trainee, store: Store) -> None:
    """Write the averaged model as a checkpoint folder people can use. Every worker calls it; the first writes."""
    import tempfile

    weights = trainee.averaged()
    if trainee.session.rank:
        return
    trainee.session.check()
    with tempfile.TemporaryDirectory() as folder:
        low_rank = trainee.config.tune == "lora"  # the layers themselves were replaced
        plain = model_setup.load(trainee.config, trainee.spec) if low_rank else trainee.loaded
        checkpoints.save(folder, plain, weights=_trusted(weights, trainee.config.trust), dtype=torch.float16)
        files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
        for file in sorted(files, key=lambda p: p.name == "config.json" and p.parent == Path(folder)):
            store.publish(f"{MODEL}/{file.relative_to(folder)}", file.read_bytes())


def _trusted(weights: dict[str, Tensor], trust: float) -> dict[str, Tensor]:
    """The weights with the last layer scaled: a bridge's answer is the way from its start, and this shortens it."""
    if trust == 1:
        return weights
    return {name: w * trust if name.startswith("denoiser.conv_out.") else w for name, w in weights.items()}
