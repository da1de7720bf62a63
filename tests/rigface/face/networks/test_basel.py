"""Basel regressors against their authors' numbers."""

import numpy as np
import pytest
import torch

from rigface.face.networks.basel import EXPRESSION, load_d3dfr, load_deep3d
from tests.rigface.face.official_figures import as_input, loaded


@pytest.mark.slow
def test_d3dfr_numbers_are_those_of_the_authors_code(figures, weights, tmp_path):
    figure = figures("d3dfr")
    wrapped = {f"module.{name}": value for name, value in weights("d3dfr.d3dfr").items()}
    network = loaded(load_d3dfr, wrapped, tmp_path / "d3dfr_res50_nofc.pth")
    with torch.inference_mode():
        numbers = network(as_input(figure["warped"]) * 2 - 1).numpy()
    assert np.abs(numbers - figure["coefficients"]).max() < 1e-4
    assert np.abs(numbers[:, EXPRESSION] - figure["expression"]).max() < 1e-4


@pytest.mark.slow
def test_deep3d_numbers_are_those_of_the_authors_code(figures, weights, tmp_path):
    figure = figures("deep3d")
    content = {"net_recon": weights("deep3d.net_recon"), "opt_00": {"state": {}}, "sched_00": {"last_epoch": 20}}
    network = loaded(load_deep3d, content, tmp_path / "epoch_20.pth")
    with torch.inference_mode():
        numbers = network(as_input(figure["aligned"])).numpy()
    assert np.abs(numbers - figure["coefficients"]).max() < 1e-4
