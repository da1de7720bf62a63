"""Train a refiner: a dataset of faces in, a model folder out.

    OUT/rigface.json          settings, head, versions, commit
    OUT/examples/<2 hex>/<unit>.parquet   examples, one object per unit; see `examples.py`
    OUT/checkpoint.pt         state of the training, to go on from
    OUT/log                   a JSON line per logged step
    OUT/model                 versions of the averaged weights, for `edit`, `animate`, `serve`

A stopped or killed run goes on when the same command is run again.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import run_info
from pipelines.cluster.unit_job import run_units
from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.layout import EXAMPLES
from pipelines.examples.pair_plan import StagingBank
from pipelines.refine.batches import Batch, ExampleBatches
from pipelines.refine.config import RefineConfig
from pipelines.refine.examples import ComposeExamples
from pipelines.refine.loss import refiner_loss, region_psnr
from pipelines.refine.plan import named, plan_examples, units_of
from pipelines.train import metric_log
from rigface.assets import find
from rigface.dataset.faces import Faces
from rigface.errors import JobBroken, PlanError
from rigface.model.ema import Average
from rigface.model.number_format import autocast, autocast_dtype
from rigface.refiner.network import RefinerConfig, RefinerNetwork, load_refiner, save_refiner
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.storage.versions import publish_version

CHECKPOINT, MODEL = "checkpoint.pt", "model"
WARMUP_STEPS = 100
MAX_GRADIENT = 1.0
SHAPE = ("size", "widths", "blocks")  # settings of a refiner that its weights fix
LINE_S = 10.0  # at least so long between two lines of progress


def refine(config: RefineConfig, say: Callable[[str], None] = print) -> dict[str, float]:
    """Run the job; returns the last numbers of the validation.

    Raises:
        PlanError: there are no faces, those of another head, or the output was made with other settings.
        OutputBusy: another run writes to this output.
        JobBroken: the loss is not finite.
    """
    source, store = Store(config.faces), Store(config.out)
    head = Faces(source).head
    if head.name != "open":
        raise PlanError(f"previews are of the open head, and {source.uri} holds faces of {head.name!r}")
    with lock.hold(store) as check:
        info = run_info.load_own(store, "refine", (EXAMPLES, MODEL))
        settings = {"refine": asdict(config.settings), "head": asdict(head), "faces": source.uri}
        if info and (changed := [name for name, value in _plain(settings).items() if info.get(name) != value]):
            raise PlanError(f"{store.uri} was made with other {', '.join(changed)}; choose another OUT")
        run_info.write(store, settings | {"config": asdict(config)} | run_info.software())
        frames, places = read_frames(source, dict(zip(GATES, (config.settings.min_confidence, 0.0, 0.0))))
        frames = named(frames, config.settings.people)
        planned = plan_examples(frames, places, head.expression_names, config.settings)
        if not planned:
            raise PlanError(f"{source.uri}: no face passes --min-confidence {config.settings.min_confidence:g}")
        say(f"{len(planned):,} examples planned of {len(set(frames.identity[frames.good])):,} people")
        settings_hash = hashlib.sha256(json.dumps(_plain(settings), sort_keys=True).encode()).hexdigest()[:16]
        worker = partial(ComposeExamples, config.faces, config.out, config.settings, head, StagingBank.of(frames))
        units = units_of(planned, settings_hash, config.settings.unit_size)
        run_units(units, worker, config.pool, store, EXAMPLES, check, say)
        return RefinerTraining(config, RefinerConfig(head, config.settings.size), store).run(check, say)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The values as JSON gives them back."""
    return dict(json.loads(json.dumps(values)))


class RefinerTraining:
    """A training run and its state."""

    def __init__(self, config: RefineConfig, refiner: RefinerConfig, store: Store) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(automatic if config.device == "auto" else config.device)
        self.config, self.refiner, self._store = config, refiner, store
        self._batches = ExampleBatches(store, refiner.head)
        torch.manual_seed(config.settings.seed)
        network = self._started() if config.start else RefinerNetwork(refiner)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(self.network, config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        if store.exists(CHECKPOINT):
            self._restore(torch.load(io.BytesIO(store.read(CHECKPOINT)), self.device, weights_only=True))

    def _started(self) -> RefinerNetwork:
        """The network to start from; PlanError if it has another size or head."""
        folder = find("refiner") if self.config.start == "refiner" else Path(self.config.start)
        network, found = load_refiner(folder)
        if found.head.expression_names != self.refiner.head.expression_names:
            raise PlanError(f"--start {self.config.start}: trained with other expressions than the faces have")
        if changed := {n: getattr(found, n) for n in SHAPE if getattr(found, n) != getattr(self.refiner, n)}:
            raise PlanError(f"--start {self.config.start}: a refiner of other settings, {changed}")
        return network.train()

    def run(self, check: Callable[[], None], say: Callable[[str], None]) -> dict[str, float]:
        """Train to the last step, validate and publish the model; the numbers of the last validation."""
        log = metric_log.MetricLog(self._store, True, self.step)
        numbers: dict[str, float] = {}
        began, first, spoke = time.monotonic(), self.step, -math.inf
        while self.step < self.config.steps:
            loss = self._train_step()
            now = time.monotonic()
            seconds = (now - began) / (self.step - first)
            log.add({"loss": loss, "step_s": seconds, "learning_rate": self._rate()}, self.step, 10)
            if now - spoke >= LINE_S:
                spoke, left = now, seconds * (self.config.steps - self.step)
                say(
                    f"step {self.step:,} of {self.config.steps:,} · loss {loss:.4f} · {seconds:.2f} s a step · "
                    f"{int(left) // 60}:{int(left) % 60:02d} left"
                )
            if self.step % self.config.checkpoint_every == 0:
                check()
                self._save()
            if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                numbers = self.validate()
                log.add({f"validation/{name}": value for name, value in numbers.items()}, self.step)
                say(", ".join(f"{name} {value:.2f}" for name, value in numbers.items()))
                check()
                self._export()
        log.close()
        return numbers

    def _train_step(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        random = np.random.default_rng([self.config.settings.seed, self.step])  # the same batch after a resume
        batch = self._batches.draw(self.config.batch, random).to(self.device)
        with autocast(autocast_dtype(self.config.number_format, self.device), self.device):
            correction = self.network(batch.pictures, batch.code)
        loss = refiner_loss(correction, batch)
        if not torch.isfinite(loss):
            raise JobBroken(f"the loss of step {self.step + 1} is not finite; use a lower --learning-rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT)
        self.optimizer.step()
        self.average.update()
        self.step += 1
        return loss.item()

    def _rate(self) -> float:
        """Learning rate of the next step: a short rise, then a cosine down to a hundredth."""
        rise = min(1.0, (self.step + 1) / WARMUP_STEPS)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.config.steps)))
        return self.config.learning_rate * rise * (0.99 * fall + 0.01)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR in dB by kind of example and region, of the averaged network and, as `preview`, of its input."""
        sums: dict[str, list[float]] = {}
        with self.average.swapped():
            for kind, rows in self._batches.held_out(self.config.validation_examples).items():
                for start in range(0, len(rows), self.config.batch):
                    batch = self._batches.batch(rows[start : start + self.config.batch]).to(self.device)
                    refined = self.network(batch.pictures, batch.code).of(batch.preview)
                    outputs = {"refined": refined, "preview": batch.preview}
                    for name, output in outputs.items():
                        self._add(sums, f"{kind} {name}", output, batch)
        return {name: total / count for name, (total, count) in sums.items() if count}

    def _add(self, sums: dict[str, list[float]], name: str, output: torch.Tensor, batch: Batch) -> None:
        for region, (total, count) in region_psnr(output, batch).items():
            entry = sums.setdefault(f"{name} {region}", [0.0, 0.0])
            entry[0] += total
            entry[1] += count

    def _save(self) -> None:
        state = {
            "step": self.step, "network": self.network.state_dict(), "average": self.average.state(),
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        content = io.BytesIO()
        torch.save(state, content)
        self._store.publish(CHECKPOINT, content.getvalue())

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])
        self.network.load_state_dict(state["network"])
        self.average.load(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _export(self) -> None:
        with self.average.swapped():
            network = copy.deepcopy(self.network)
        with tempfile.TemporaryDirectory(prefix="rigface-") as folder:
            save_refiner(Path(folder), network, self.refiner)
            publish_version(self._store, MODEL, f"step-{self.step:08d}", Path(folder))
