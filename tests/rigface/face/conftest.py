"""Reference figures of the official networks, and their made-up weights (tests/fixtures/official)."""

import json

import numpy as np
import pytest
import torch

from tests.rigface.face.official_figures import drawn


@pytest.fixture(scope="session")
def official(fixtures):
    return fixtures / "official"


@pytest.fixture(scope="session")
def figures(official):
    """Figures by file name: `figures("deca")["encoder.parameters"]`."""
    return lambda name: dict(np.load(official / f"{name}.npz"))


@pytest.fixture(scope="session")
def layouts(official):
    """Names, shapes, seed and gain of every network."""
    return json.loads((official / "weights.json").read_text())


@pytest.fixture(scope="session")
def weights(layouts):
    """The weights that the figures were made with, by network: `weights("deca.E_flame")`."""
    return lambda network: drawn(layouts[network]["names"], layouts[network]["seed"], layouts[network]["gain"])


@pytest.fixture(scope="session")
def empty(layouts):
    """Zeros of the right names and shapes, a number each in memory and on disk."""
    return lambda network: {n: torch.zeros(()).expand(s) for n, s in layouts[network]["names"].items()}
