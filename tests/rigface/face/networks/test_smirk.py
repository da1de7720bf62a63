"""SMIRK's encoder against its authors' numbers."""

import numpy as np
import pytest
import torch

from rigface.errors import BadCheckpoint
from rigface.face.networks.smirk import load_smirk
from tests.rigface.face.official_figures import as_input, loaded


def test_codes_are_those_of_the_authors_code(figures, weights, tmp_path):
    flat = {f"smirk_encoder.{name}": value for name, value in weights("smirk.smirk_encoder").items()}
    smirk = loaded(load_smirk, flat | {"smirk_generator.conv.weight": torch.zeros(3)}, tmp_path / "SMIRK_em1.pt")
    figure = figures("smirk")
    with torch.inference_mode():
        codes = smirk(as_input(figure["pictures"]))
    groups = dict(pose=codes.head_rotation, shape=codes.shape, expression=codes.expression, jaw=codes.jaw_rotation)
    for name, values in {f"{k}_params": v for k, v in groups.items()}.items():
        assert np.abs(values.numpy() - figure[name]).max() < 1e-4, name
    assert np.abs(codes.camera.numpy() - figure["cam"]).max() < 1e-4
    assert np.abs(codes.eyelids.numpy() - figure["eyelid_params"]).max() < 1e-4
    assert codes.light is codes.texture is None


def test_lids_and_jaw_stay_in_their_range(empty, tmp_path):
    flat = {f"smirk_encoder.{name}": value for name, value in empty("smirk.smirk_encoder").items()}
    numbers = torch.tensor([*[0.0] * 50, -1.0, 2.0, -0.5, -0.9, 0.9])
    flat["smirk_encoder.expression_encoder.expression_layers.0.bias"] = numbers
    codes = loaded(load_smirk, flat, tmp_path / "SMIRK_em1.pt")(torch.zeros(1, 3, 64, 64))
    assert codes.eyelids.tolist() == [[0, 1]]
    assert codes.jaw_rotation[0].tolist() == pytest.approx([0, -0.2, 0.2])


def test_the_generator_alone_is_refused(tmp_path):
    torch.save({"smirk_generator.conv.weight": torch.zeros(3)}, tmp_path / "SMIRK_em1.pt")
    with pytest.raises(BadCheckpoint, match=r"SMIRK's encoder.*tensors are missing"):
        load_smirk(tmp_path / "SMIRK_em1.pt")
