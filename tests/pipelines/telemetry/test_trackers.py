"""Trackers: what W&B and MLflow are told, by stand-ins with their signatures; TensorBoard as it is."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pipelines.telemetry.trackers import Trackers
from pipelines.train.metric_log import MetricLog
from rigface.errors import MissingExtra
from rigface.storage.store import Store

SETTINGS = {"steps": 3, "networks": {"channels": [1, 2]}}
PICTURE = np.zeros((4, 4, 3), np.uint8)


class FakeWandb(ModuleType):
    """The calls of wandb 0.31 that are used; a run keeps what it is told."""

    def __init__(self):
        super().__init__("wandb")
        self.told, self.broken = [], False

    def init(self, *, project, name, id, resume, config, dir):
        self.told.append(("init", project, name, id, resume, config, dir))
        return SimpleNamespace(id=id or "abc", log=self.log, finish=self.finish)

    def Image(self, data_or_path):
        return data_or_path.shape

    def log(self, data, step=None):
        if self.broken:
            raise ConnectionError("away")
        self.told.append((step, data))

    def finish(self, exit_code=None):
        self.told.append(("finish", exit_code))


class FakeMlflow(ModuleType):
    """The calls of mlflow 3.17 that are used."""

    def __init__(self):
        super().__init__("mlflow")
        self.told = []

    def start_run(self, run_id=None, *, run_name=None):
        self.told.append(("start", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "def"))

    def log_params(self, params):
        self.told.append(("params", params))

    def log_metrics(self, metrics, step=None):
        self.told.append((step, metrics))

    def log_image(self, image, *, key, step):
        self.told.append((step, {key: image.shape}))

    def end_run(self, status="FINISHED"):
        self.told.append(("end", status))


@pytest.fixture
def services(monkeypatch):
    """Both services, and no variable of theirs."""
    wandb, mlflow = FakeWandb(), FakeMlflow()
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return wandb, mlflow


def test_trackers_are_told_numbers_and_pictures_and_go_on_with_the_same_run(services, tmp_path):
    wandb, mlflow = services
    store = Store(str(tmp_path / "mine"))
    log = MetricLog(store, True, 0, track=("tensorboard", "wandb", "mlflow"), settings=SETTINGS)
    log.add({"loss": 0.5, "grad_norm": None}, 1)
    log.picture("edits", PICTURE, 1)
    log.add({"loss": 0.4}, 2, every=10)
    log.close()
    told = [(1, {"loss": 0.5}), (1, {"edits": (4, 4, 3)})]
    assert wandb.told == [
        ("init", "rigface", "mine", None, None, SETTINGS, str(tmp_path / "mine")), *told, ("finish", 0),
    ]  # fmt: skip
    flat = {"steps": 3, "networks.channels": [1, 2]}
    assert mlflow.told == [("start", None, "mine"), ("params", flat), *told, ("end", "FINISHED")]
    assert any(path.name.startswith("events") for path in Path(store.root, "tensorboard").iterdir())

    wandb.told.clear()
    mlflow.told.clear()
    MetricLog(store, True, 1, track=("mlflow", "wandb")).close(failed=True)
    assert [call[3:5] for call in wandb.told[:1]] == [("abc", "allow")]
    assert mlflow.told == [("start", "def", "mine"), ("end", "FAILED")]


def test_run_goes_on_without_a_service_that_fails_and_ends_without_a_package(services, tmp_path, monkeypatch, capsys):
    wandb, mlflow = services
    trackers = Trackers(("wandb", "mlflow"), Store(str(tmp_path)))
    wandb.broken = True
    for step in (1, 2):
        trackers.log({"loss": 0.5}, step)
    trackers.finish(failed=False)
    assert [call[0] for call in mlflow.told] == ["start", 1, 2, "end"]
    assert capsys.readouterr().err.count("wandb failed") == 1
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match="--track wandb needs wandb, which is not installed: `pip install wandb`"):
        Trackers(("wandb",), Store(str(tmp_path)))
