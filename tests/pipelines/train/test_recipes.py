"""Recipes in training: resumed exactly, and exported."""

import sys
from dataclasses import replace
from typing import get_args

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard

from pipelines.examples.config import EncodeConfig
from pipelines.examples.encode import encode
from pipelines.examples.example_index import ExampleIndex
from pipelines.train import optimizer
from pipelines.train.backend import LocalBackend
from pipelines.train.batches import Batches
from pipelines.train.config import debug
from pipelines.train.loop import _step, export
from pipelines.train.trainer_state import TrainerState
from rigface.errors import PlanError
from rigface.model import checkpoint
from rigface.model.hub.model_card import SD15_ID
from rigface.model.model_config import RecipeName
from rigface.model.recipes.protocol import AdapterRecipe, recipe_of
from rigface.storage.store import Store
from rigface.testing import fake_examples, toy_start


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Latents of fake examples with identity vectors and points, for all recipes."""
    folder = tmp_path_factory.mktemp("recipes")
    part = folder / "pairs" / "examples" / "00" / "00part.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(fake_examples.table(16, style="points", identity="dlib"), part)
    checkpoint.save(folder / "tiny", checkpoint.tiny())
    encode(EncodeConfig(str(folder / "pairs"), str(folder / "latents"), str(folder / "tiny")), lambda words: None)
    return folder / "latents"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A toy Stable Diffusion."""
    folder = tmp_path_factory.mktemp("toy")
    toy_start.write(folder, shallow=True)
    return folder


class Run:
    """A training in this process, step by step."""

    def __init__(self, config, folder=None):
        index, backend = ExampleIndex.of(Store(config.examples)), LocalBackend(Store(config.out))
        torch.manual_seed(config.seed)
        self.state = TrainerState(config, index.spec, backend, torch.device("cpu"))
        if folder is not None:
            self.state.load(folder)
        self._batches = iter(Batches(config, index, self.state, [0]))

    def step(self):
        number, batch, _ = next(self._batches)
        return _step(self.state, batch, [0], 1, number)[0]


def test_adam_of_8_bits_is_refused_without_cuda_or_without_its_package(examples, toy, tmp_path, monkeypatch):
    given = {"examples": str(examples), "out": str(tmp_path), "start": f"sd15:{toy}", "optimizer": "adam8bit"}
    with pytest.raises(PlanError, match="computes on CUDA"):
        Run(replace(debug(), **given))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(PlanError, match="pip install bitsandbytes"):
        optimizer.build(replace(debug(), **given), [], torch.device("cuda"))


@pytest.mark.parametrize("name", get_args(RecipeName))
def test_killed_run_goes_on_exactly(examples, toy, tmp_path, name):
    config = replace(debug(), examples=str(examples), out=str(tmp_path), start=f"sd15:{toy}", recipe=name, lora_rank=2)
    config = replace(config, decay="matrices", lr_groups=("*=0.5",))
    whole = Run(config)
    whole.step()
    kept = whole.state.save(tmp_path / "kept")
    rest = [whole.step() for _ in range(2)]  # while the state of before is written
    kept.result()
    again = Run(config, tmp_path / "kept")
    assert again.state.step == 1
    assert [again.step() for _ in range(2)] == pytest.approx(rest, rel=1e-6)
    average = again.state.averaged()
    torch.testing.assert_close(average, whole.state.averaged())
    for key, weights in again.state.average.weights.items():
        assert torch.equal(average[key], weights), f"{key}: not the average"
    export(again.state, Store(str(tmp_path / "out")), {"loss": 0.7, "validation/psnr": 23.5})
    again.state.settle()
    made = checkpoint.start(str(tmp_path / "out" / "model"))
    cards = [ModelCard.load(place) for place in (tmp_path / "out").rglob("README.md")]
    assert all(card.data.base_model == SD15_ID and "| psnr | 23.5 |" in card.text for card in cards)
    assert len(cards) == (2 if isinstance(recipe_of(name), AdapterRecipe) else 1)
    assert (made.config.recipe, made.config.head) == (name, fake_examples.HEAD)
    assert (tmp_path / "out" / "adapter").exists() == isinstance(recipe_of(name), AdapterRecipe)
