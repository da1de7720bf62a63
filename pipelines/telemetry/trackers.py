"""Experiment trackers of a training run: TensorBoard, Weights & Biases, MLflow.

Path: metric_log.py -> the `Tracker`s of `--track` -> OUT/tensorboard, or a service.

Servers, projects and credentials are told to W&B and MLflow by their own environment variables (WANDB_MODE,
WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME ...). A run that goes on is the same run there: its name at
each service is kept in OUT/log/trackers.json. A service that fails is left out from then on, and the run goes on.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rigface.errors import MissingExtra
from rigface.extras import extra
from rigface.storage.store import Store

IDS = "log/trackers.json"
PROJECT = "rigface"  # at W&B, unless WANDB_PROJECT says another
FLUSH_S = 15  # after so long TensorBoard sees what was logged
MAX_PARAMS = 100  # of one request to MLflow


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers see it."""

    store: Store  # its output
    settings: Mapping[str, Any]
    step: int  # the last one of before; 0: it begins
    known_as: str = ""  # its name at the service, if it has been there

    @property
    def name(self) -> str:
        """The folder, for people to read."""
        return self.store.uri.rsplit("/", 1)[-1]


class Tracker(Protocol):
    """A place where the curves of a run are shown."""

    def start(self, run: TrackedRun) -> str:
        """Begin, or go on; the run's name at the service, to be given again next time."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers of a step; steps never go back, a step may come twice."""

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture (H, W, 3) uint8."""

    def flush(self) -> None:
        """Make all of it visible; called at checkpoints."""

    def finish(self, failed: bool) -> None:
        """End."""


class TensorBoard:
    """Event files in OUT/tensorboard; on object storage whole files, at checkpoints."""

    def start(self, run: TrackedRun) -> str:
        with extra("train"):
            from torch.utils.tensorboard import SummaryWriter

        self._store = run.store
        self._temporary = tempfile.TemporaryDirectory(prefix="rigface-board-") if run.store.is_s3 else None
        self._place = self._temporary.name if self._temporary else run.store.at("tensorboard")
        self._writer: Any = SummaryWriter(self._place, purge_step=run.step + 1, flush_secs=FLUSH_S)
        return ""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()
        if self._temporary:
            for file in sorted(Path(self._place).iterdir()):
                self._store.publish(f"tensorboard/{file.name}", file.read_bytes())

    def finish(self, failed: bool) -> None:
        self.flush()
        self._writer.close()
        if self._temporary:
            self._temporary.cleanup()


class WeightsAndBiases:
    """A run of the project WANDB_PROJECT; with WANDB_MODE=offline in OUT/wandb, for `wandb sync`."""

    def start(self, run: TrackedRun) -> str:
        self._wandb = _imported("wandb")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.known_as or None,
            resume="allow" if run.known_as else None,
            config=dict(run.settings),
            dir=None if run.store.is_s3 else run.store.root,
        )
        return str(self._run.id)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def flush(self) -> None:
        """It sends by itself."""

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME at MLFLOW_TRACKING_URI."""

    def start(self, run: TrackedRun) -> str:
        self._mlflow = _imported("mlflow")
        active = self._mlflow.start_run(run_id=run.known_as or None, run_name=run.name)
        if not run.known_as:
            settings = list(_flat(run.settings).items())
            for first in range(0, len(settings), MAX_PARAMS):
                self._mlflow.log_params(dict(settings[first : first + MAX_PARAMS]))
        return str(active.info.run_id)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._mlflow.log_image(image, key=name, step=step)

    def flush(self) -> None:
        """It sends by itself."""

    def finish(self, failed: bool) -> None:
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


KINDS: dict[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


class Trackers:
    """The trackers of a run, all told the same. MissingExtra if the package of one is not installed."""

    def __init__(
        self, names: Sequence[str], store: Store, settings: Mapping[str, Any] | None = None, step: int = 0
    ) -> None:
        self._running: dict[str, Tracker] = {}
        ids = json.loads(store.read(IDS)) if store.exists(IDS) else {}
        for name in dict.fromkeys(names):
            tracker, run = KINDS[name](), TrackedRun(store, settings or {}, step, ids.get(name, ""))
            ids[name] = tracker.start(run)
            self._running[name] = tracker
        ids = {name: known_as for name, known_as in ids.items() if known_as}
        if ids:
            store.publish(IDS, json.dumps(ids).encode())

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._tell(lambda tracker: tracker.log(numbers, step))

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._tell(lambda tracker: tracker.picture(name, image, step))

    def flush(self) -> None:
        self._tell(lambda tracker: tracker.flush())

    def finish(self, failed: bool) -> None:
        self._tell(lambda tracker: tracker.finish(failed))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._running.items()):
            try:
                call(tracker)
            except Exception as error:
                if isinstance(tracker, TensorBoard):
                    raise  # it writes to OUT: no room, or another run has taken it over
                del self._running[name]
                print(f"{name} failed ({error!r}): the run goes on without it", file=sys.stderr, flush=True)


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"--track {module} needs {error.name}, which is not installed: `pip install {module}`, or leave it out"
        ) from error


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
