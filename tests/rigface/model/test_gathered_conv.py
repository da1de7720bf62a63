"""Gathered convolutions: equal to torch's at all sizes, and plain in training."""

import copy

import pytest
import torch
from torch import nn

from rigface.model import checkpoint, gathered_conv
from rigface.model.gathered_conv import GatheredConv2d, gather
from rigface.model.pipeline import RigFacePipeline


@pytest.mark.parametrize(("rows", "height", "width"), [(1, 4, 4), (2, 3, 5), (1, 8, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gathered_convolution_equals_torch(rows, height, width, dtype, monkeypatch):
    torch.manual_seed(0)
    plain = nn.Conv2d(512, 576, 3, padding=1).to(dtype)
    gathered = copy.deepcopy(plain)
    gather(gathered)
    assert type(gathered) is GatheredConv2d
    calls = []
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", _counted(calls, nn.Conv2d._conv_forward))
    x = torch.randn(rows, 512, height, width, dtype=dtype)
    with torch.inference_mode():
        expected = plain(x)
        alone = len(calls)
        got = gathered(x)
    assert (len(calls) - alone == 0) == (rows * height * width <= 66)
    torch.testing.assert_close(got, expected, atol=2e-5 if dtype is torch.float32 else 2e-2, rtol=1e-2)


def _counted(calls, forward):
    def counted(*args):
        calls.append(args)
        return forward(*args)

    return counted


def test_other_layers_are_not_replaced():
    layers = nn.Sequential(
        nn.Conv2d(512, 576, 3, padding=1, stride=2), nn.Conv2d(1664, 1664, 1),
        nn.Conv2d(1024, 576, 3, padding=1, groups=2),
        nn.Conv2d(320, 320, 3, padding=1), nn.Conv2d(512, 576, 3),
    )  # fmt: skip
    gather(layers)
    assert {type(layer) for layer in layers} == {nn.Conv2d}


def test_gathered_model_edits_trains_and_saves_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(gathered_conv, "WEIGHTS_PER_PIXEL", 1)  # so that the toy gathers somewhere
    toy, same = checkpoint.tiny(), checkpoint.tiny()
    gather(toy.model)
    kinds = [type(layer) for layer in toy.model.modules()]
    assert GatheredConv2d in kinds
    shape = (1, toy.model.latent_channels, 16, 16)
    q = {name: torch.randn(shape) for name in ("latents", "background", "render", "reference")}
    q |= {"timestep": torch.tensor([500]), "expression_code": torch.randn(1, toy.model.expression_size)}
    with torch.inference_mode():
        torch.testing.assert_close(toy.model(**q), same.model(**q), atol=1e-5, rtol=1e-4)
    toy.model(**q).square().mean().backward()
    assert all(p.grad is not None for p in toy.model.denoiser.parameters())
    RigFacePipeline.of(toy).save_pretrained(tmp_path / "p")
    back = checkpoint.load(tmp_path / "p").model.state_dict()
    for name, value in same.model.state_dict().items():
        assert torch.equal(back[name], value), name
