"""Recipes in training: resumed exactly, trained from faces in one command, and counted."""

from dataclasses import replace
from typing import get_args

import pyarrow.parquet as pq
import pytest
import torch

from pipelines.examples.layout import parts_of, spec_of
from pipelines.train.backend import LocalBackend
from pipelines.train.batches import Batches
from pipelines.train.config import debug
from pipelines.train.loop import _step
from pipelines.train.trainer_state import TrainerState
from rigface.model import checkpoint
from rigface.model.model_config import RecipeName
from rigface.storage.store import Store
from rigface.testing import fake_examples
from tests.pipelines.made_faces import dataset


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """One part of fake examples with identity vectors."""
    part = tmp_path_factory.mktemp("recipes") / "examples" / "00" / "00part.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(fake_examples.table(16, identity="dlib"), part)
    return part.parents[2]


class Run:
    """A training in this process, step by step."""

    def __init__(self, config, folder=None):
        source, backend = Store(config.examples), LocalBackend(Store(config.out))
        torch.manual_seed(config.seed)
        self.state = TrainerState(config, spec_of(source, parts_of(source)), backend, torch.device("cpu"))
        if folder is not None:
            self.state.load(folder)
        self._batches = iter(Batches(config, source, parts_of(source), self.state, [0]))

    def step(self):
        number, batch, _ = next(self._batches)
        return _step(self.state, batch, [0], 1, number)


@pytest.mark.parametrize("name", get_args(RecipeName))
def test_killed_run_goes_on_exactly(examples, tmp_path, name):
    config = replace(debug(), examples=str(examples), out=str(tmp_path), recipe=name, lora_rank=2)
    whole = Run(config)
    whole.step()
    whole.state.save(tmp_path / "kept")
    rest = [whole.step() for _ in range(2)]
    again = Run(config, tmp_path / "kept")
    assert again.state.step == 1
    assert [again.step() for _ in range(2)] == pytest.approx(rest, rel=1e-6)
    torch.testing.assert_close(again.state.averaged(), whole.state.averaged())


def test_recipe_is_trained_on_faces_in_one_command(mini, tmp_path):
    from pipelines.cli.main import main

    dataset(tmp_path / "faces", people=2, frames=8)
    words = ["mini_cpu", tmp_path / "faces", tmp_path / "run", "--start", "mini", "--recipe", "ip_adapter"]
    words += ["--steps", 1, "--batch", 2, "--checkpoint-every", 1, "--validate-every", 1, "--validation-examples", 0]
    assert main(["train", *map(str, words)]) == 0
    made = checkpoint.start(str(tmp_path / "run" / "model"))
    assert (made.config.recipe, made.config.identity, made.config.size) == ("ip_adapter", "dlib", 64)
    assert made.model.width == 128
    alone = checkpoint.folder_of(str(tmp_path / "run" / "adapter"))
    assert [p.name for p in alone.iterdir()] == ["ip-adapter.safetensors"]
