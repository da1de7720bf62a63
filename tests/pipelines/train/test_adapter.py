"""The LoRA adapter that a training run exports beside the merged model."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipelines.examples.encode import EncodeConfig, encode
from pipelines.train.config import debug
from pipelines.train.job import train
from rigface.errors import PlanError
from rigface.model import checkpoint, lora_files
from rigface.model.pipeline import RigFacePipeline
from rigface.model.recipes.lora import DIFFUSERS_FILE
from rigface.testing import fake_examples


@pytest.fixture
def config(tmp_path):
    """Two steps of LoRA on a toy model, over fake examples."""
    part = tmp_path / "pairs" / "examples" / "00" / "00part.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(fake_examples.table(16, seed=0), part)
    checkpoint.save(tmp_path / "base", checkpoint.tiny(kind="bridge"))
    encode(EncodeConfig(str(tmp_path / "pairs"), str(tmp_path / "latents"), str(tmp_path / "base")), lambda words: None)
    where = {"examples": str(tmp_path / "latents"), "out": str(tmp_path / "run"), "start": str(tmp_path / "base")}
    return replace(debug(), **where, validation_examples=0, steps=2, recipe="lora", lora_rank=2, learning_rate=1e-2)


def latents(pipe: RigFacePipeline) -> np.ndarray:
    black = np.zeros((32, 32, 3), np.uint8)
    return pipe(black + 90, black, black + 200, np.ones(52, np.float32), seed=3, output_type="latent").latents.numpy()


def test_exported_adapter_on_a_fresh_base_gives_the_merged_model(config, tmp_path):
    train(config, lambda words: None)
    pipe = RigFacePipeline.from_pretrained(tmp_path / "base")
    base = latents(pipe)
    pipe.use_adapter(tmp_path / "run" / "adapter")
    merged = latents(RigFacePipeline.from_pretrained(tmp_path / "run" / "model"))
    assert np.allclose(latents(pipe), merged, atol=0.01 * np.abs(merged).max())  # the merged model is stored in float16
    assert np.abs(latents(pipe) - base).max() > 0.05 * np.abs(base).max()
    version = checkpoint.folder_of(str(tmp_path / "run" / "adapter"))
    lora_files.write_adapter(version / DIFFUSERS_FILE, tmp_path / "denoiser")  # as a stock pipeline would read it
    own, stock = (load_file(f / "adapter_model.safetensors") for f in (version, tmp_path / "denoiser"))
    assert {n for n in own if n.startswith("base_model.model.denoiser.") and ".lora_" in n} == set(stock)
    assert all(torch.equal(own[name], stock[name]) for name in stock)


def test_output_scale_with_lora_is_refused(config):
    with pytest.raises(PlanError, match="does not train"):
        train(replace(config, output_scale=0.9), lambda words: None)
