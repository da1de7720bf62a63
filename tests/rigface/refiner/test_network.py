"""The network that corrects previews, and its folder."""

import json

import pytest
import torch

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.model.checkpoint_folder import refiner_folder
from rigface.model.model_config import config_of
from rigface.refiner.network import Correction, RefinerConfig, RefinerNetwork, load_refiner, save_refiner
from rigface.types import HeadSpec

HEAD = HeadSpec("open", "1", 4, 6, 2, tuple("abcdef"))
SMALL = RefinerConfig(HEAD, size=32, widths=(8, 16), blocks=(1, 1))


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    network = RefinerNetwork(SMALL)
    for layer in (network.exit, network.motion):
        torch.nn.init.normal_(layer.weight, std=0.1)
    save_refiner(tmp_path / "refiner", network, SMALL)
    return tmp_path / "refiner"


def inputs(count=2):
    random = torch.Generator().manual_seed(1)
    return torch.rand((count, 9, 32, 32), generator=random) * 2 - 1, torch.rand((count, 12), generator=random)


def test_untrained_network_gives_the_preview():
    pictures, codes = inputs()
    flow, change = RefinerNetwork(SMALL)(pictures, codes)
    assert not flow.any()
    assert not change.any()


def test_correction_without_flow_and_change_is_the_preview():
    preview = inputs()[0][:, :3]
    nothing = Correction(torch.zeros(2, 2, 32, 32), torch.zeros(2, 3, 32, 32))
    torch.testing.assert_close(nothing.of(preview), preview, atol=1e-5, rtol=0)


def test_flow_points_to_where_the_preview_shows_a_pixel():
    preview = inputs()[0][:, :3]
    flow = torch.zeros(2, 2, 32, 32)
    flow[:, 0], flow[:, 1] = 3 / 16, -2 / 16  # 3 px right, 2 up
    moved = Correction(flow, torch.full_like(preview, 0.5)).of(preview)
    torch.testing.assert_close(moved[..., 2:, :-3], preview[..., :-2, 3:] + 0.5, atol=1e-5, rtol=0)


def test_saved_network_is_read_as_it_was(folder):
    network, config = load_refiner(folder)
    assert config == SMALL
    again, _ = load_refiner(folder)
    pictures, codes = inputs()
    for part, same in zip(network(pictures, codes), again(pictures, codes)):
        assert part.any()
        assert torch.equal(part, same)


def test_rows_do_not_change_each_other(folder):
    network, _ = load_refiner(folder)
    pictures, codes = inputs()
    for together, alone in zip(network(pictures, codes), network(pictures[1:], codes[1:])):
        torch.testing.assert_close(together[1:], alone)


def test_refiners_are_told_from_other_models(folder, tmp_path):
    assert refiner_folder(str(folder)) == folder
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"format": "rigface-model"}')
    assert refiner_folder(str(tmp_path / "model")) is None
    assert refiner_folder("tiny") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "want format 'rigface-refiner'"),
        ({"version": 1}, "want version 2, got 1"),
        ({"widths": [8]}, "as many blocks as widths"),
        ({"size": 30}, "multiple of 4 px"),
        ({"blocks": [2, 1]}, r"encoder\.0\.1"),
    ],
)
def test_config_that_does_not_fit_is_refused(folder, change, message):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(BadCheckpoint, match=message):
        load_refiner(folder)


def test_truncated_weights_are_refused(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        load_refiner(folder)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(MissingAsset, match="no refiner"):
        load_refiner(tmp_path)


def test_refiner_as_a_diffusion_model_is_refused_with_its_commands(folder):
    with pytest.raises(BadCheckpoint, match="`rigface refine`"):
        config_of(str(folder))
