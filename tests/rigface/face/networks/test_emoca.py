"""EMOCA's encoders against its authors' numbers."""

import numpy as np
import pytest
import torch

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile
from rigface.face.networks.emoca import load_emoca
from tests.rigface.face.official_figures import as_input, loaded


class Settings:
    """Stands for the OmegaConf objects of a Lightning checkpoint."""

    def __init__(self):
        self.model = {"exp_deca_jaw_pose": True}


def lightning(coarse, expression, parallel=False):
    """The dictionary of a Lightning checkpoint."""
    second = {}
    for name, value in expression.items():
        second["deca.E_expression." + (name.replace("encoder.", "resnet.") if parallel else name)] = value
    state = {f"deca.E_flame.{name}": value for name, value in coarse.items()} | second
    state |= {"deca.D_detail.fc.weight": torch.zeros(2), "deca.render.faces": torch.zeros(1, dtype=torch.int64)}
    return {"state_dict": state, "epoch": 7, "hyper_parameters": {"model_params": Settings()}, "callbacks": {}}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "groups"), [("53", "jaw"), ("50", "plain")])
def test_codes_are_those_of_the_authors_code(figures, weights, tmp_path, kind, groups):
    content = lightning(weights("emoca.E_flame"), weights(f"emoca.E_expression_{kind}"), parallel=kind == "50")
    emoca = loaded(load_emoca, content, tmp_path / "a.ckpt")
    figure = figures("emoca")
    with torch.inference_mode():
        codes = emoca(as_input(figure["pictures"]))
    got = dict(shape=codes.shape, tex=codes.texture, exp=codes.expression, cam=codes.camera, light=codes.light)
    got["pose"] = torch.cat([codes.head_rotation, codes.jaw_rotation], 1)
    for name, values in got.items():
        assert np.abs(values.numpy() - figure[f"{groups}.{name}"]).max() < 1e-4, name


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingAsset, match=r"a\.ckpt is not there"):
        load_emoca(tmp_path / "a.ckpt")


def test_a_truncated_file_is_refused(tmp_path):
    torch.save(lightning({}, {}), tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:-100])
    with pytest.raises(UnsafeFile, match=r"a\.ckpt: .*damaged"):
        load_emoca(tmp_path / "a.ckpt")


def test_a_checkpoint_without_the_encoders_is_refused(tmp_path):
    torch.save(lightning({}, {}), tmp_path / "a.ckpt")
    with pytest.raises(BadCheckpoint, match=r"\d+ of \d+ tensors are missing"):
        load_emoca(tmp_path / "a.ckpt")


def test_an_expression_encoder_of_another_length_is_refused(tmp_path):
    torch.save(lightning({}, {"layers.2.bias": torch.zeros(56)}), tmp_path / "a.ckpt")
    with pytest.raises(BadCheckpoint, match="of 50 numbers, or of 53 with the jaw, got 56"):
        load_emoca(tmp_path / "a.ckpt")
