"""Names and shapes of the stand-ins for networks equal those of the authors' classes."""

import hashlib
import json

import pytest
import torch

from rigface.testing.official import networks

# Of the authors' own state dicts: how many names, and sha256 of the JSON of the sorted pairs of name and shape.
OFFICIAL = {
    "deca": (322, "01968a869fc6a6cf"),
    "emoca with jaw": (322, "3ebafca206e56b65"),
    "emoca": (322, "0ec4e9d499d1715f"),
    "smirk": (762, "355afce04358ef6c"),
    "d3dfr": (334, "14a1fc0e164edf18"),
    "deep3d": (332, "f0c2d1c8906597a8"),
    "bisenet": (191, "658aa58a8a48c400"),
}
BASEL = (80, 64, 80, 3, 27, 2, 1)
STAND_INS = {
    "deca": lambda: networks.deca_names(236),
    "emoca with jaw": lambda: networks.deca_names(53),
    "emoca": lambda: networks.deca_names(50),
    "smirk": networks.smirk_names,
    "d3dfr": lambda: networks.basel_names("fianl_layers", (*BASEL, 4)),
    "deep3d": lambda: networks.basel_names("final_layers", BASEL),
    "bisenet": networks.bisenet_names,
}


@pytest.mark.parametrize("network", OFFICIAL)
def test_names_and_shapes_are_official(network):
    names = STAND_INS[network]()
    text = json.dumps(sorted((name, list(shape)) for name, shape in names.items()))
    assert (len(names), hashlib.sha256(text.encode()).hexdigest()[:16]) == OFFICIAL[network]


def test_files_are_small_and_hold_tensors_alone(tmp_path):
    networks.write_d3dfr(tmp_path / "d3dfr.pth")
    assert (tmp_path / "d3dfr.pth").stat().st_size < 4e6
    weights = torch.load(tmp_path / "d3dfr.pth", weights_only=True)
    assert weights["module.backbone.layer4.2.conv2.weight"].shape == (512, 512, 3, 3)
    assert len(weights) == OFFICIAL["d3dfr"][0]


def test_lightning_checkpoint_holds_an_object_of_another_package(tmp_path):
    networks.write_emoca(tmp_path)
    (file,) = tmp_path.glob("detail/checkpoints/*.ckpt")
    with pytest.raises(Exception, match=r"omegaconf\.dictconfig\.DictConfig"):
        torch.load(file, weights_only=True)
