"""Fixtures: figures of the released code with their weights, and toy checkpoints."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rigface.model import checkpoint
from rigface.model.diffusion import Dropout, draw, row_losses


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def weights_of(described: dict) -> dict[str, torch.Tensor]:
    """The reference's random weights, from their seed: README.md of the fixture folder."""
    random, weights = np.random.RandomState(described["seed"]), {}
    for name in sorted(described["shapes"]):
        shape = described["shapes"][name]
        x = random.standard_normal(shape).astype(np.float32)
        x = 0.05 * x if name.endswith(".bias") else 1 + 0.1 * x if len(shape) == 1 else x / np.sqrt(np.prod(shape[1:]))
        weights[name] = torch.from_numpy(np.asarray(x, np.float32))
    return weights


@pytest.fixture(scope="session")
def figures(fixtures) -> dict[str, torch.Tensor]:
    """Inputs and outputs of the released code."""
    return load_file(fixtures / "rigface" / "io.safetensors")


@pytest.fixture(scope="session")
def upstream_folder(fixtures, tmp_path_factory) -> Path:
    """A released checkpoint as diffusers 0.22 wrote it, with the reference's weights."""
    folder = tmp_path_factory.mktemp("upstream") / "rigface"
    shutil.copytree(fixtures / "rigface", folder, ignore=shutil.ignore_patterns("io.safetensors", "weights.json"))
    described = json.loads((fixtures / "rigface" / "weights.json").read_text())
    for network, how in described.items():
        save_file(weights_of(how), folder / network / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture
def upstream(upstream_folder, figures) -> checkpoint.Checkpoint:
    return checkpoint.load_upstream(upstream_folder, default_text=figures["text"][0])


@pytest.fixture(scope="session")
def tiny_once() -> checkpoint.Checkpoint:
    return checkpoint.tiny()


@pytest.fixture
def tiny(tiny_once) -> checkpoint.Checkpoint:
    return copy.deepcopy(tiny_once)


@pytest.fixture
def asked():
    """Keyword arguments of `RigFaceModel.forward` for a toy model, without a reference."""

    def make(batch: int = 2, side: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(seed)
        latents = {
            name: torch.randn(batch, 4, side, side, generator=random) for name in ("latents", "background", "render")
        }
        return {
            **latents,
            "timestep": torch.randint(0, 1000, (batch,), generator=random),
            "expression_code": torch.randn(batch, 52, generator=random),
        }

    return make


@pytest.fixture
def person():
    """Latents of a reference picture for a toy model."""

    def make(batch: int = 2, side: int = 8, seed: int = 1) -> torch.Tensor:
        return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(seed))

    return make


DROPOUT = Dropout()


def denoising_loss(model, example, process, dropout=DROPOUT, generator=None):
    """The training loss, a scalar: draw, predict, compare."""
    example = example.map(lambda t: t.float())
    return row_losses(model, example, process, draw(process, example.target, dropout, generator)).mean()
