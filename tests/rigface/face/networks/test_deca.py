"""DECA's encoder against its authors' numbers."""

import numpy as np
import pytest
import torch

from rigface.face.networks.deca import CoarseEncoder, flame_codes, load_deca
from rigface.face.networks.weight_files import halve
from tests.rigface.face.official_figures import as_input, loaded


@pytest.mark.slow
def test_numbers_are_those_of_the_authors_code(figures, weights, tmp_path):
    training_extras = {"E_detail": {"encoder.conv1.weight": torch.zeros(1)}, "D_detail": {}, "opt": {"step": 3}}
    wrapped = {f"module.{name}": value for name, value in weights("deca.E_flame").items()}
    deca = loaded(load_deca, {"E_flame": wrapped, **training_extras}, tmp_path / "deca_model.tar")
    figure = figures("deca")
    with torch.inference_mode():
        numbers = deca.encoder(as_input(figure["encoder.pictures"]))
        half = halve(deca).encoder(as_input(figure["encoder.pictures"]))
    assert np.abs(numbers.numpy() - figure["encoder.parameters"]).max() < 1e-4
    assert half.dtype == torch.float32
    assert 0 < (half - numbers).abs().mean() < 0.01 * numbers.abs().mean()


def test_groups_are_in_the_authors_order(figures):
    figure = figures("deca")
    codes = flame_codes(torch.arange(236.0)[None])
    groups = dict(shape=codes.shape, tex=codes.texture, exp=codes.expression, cam=codes.camera, light=codes.light)
    groups["pose"] = torch.cat([codes.head_rotation, codes.jaw_rotation], 1)
    for name, values in groups.items():
        assert (values[0].numpy() == figure[f"order.{name}"]).all(), name


def test_every_name_and_shape_is_that_of_the_released_file(layouts):
    with torch.device("meta"):
        names = {name: list(value.shape) for name, value in CoarseEncoder().state_dict().items()}
    assert names == layouts["deca.E_flame"]["names"]
