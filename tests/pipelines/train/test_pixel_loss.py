"""Pixel loss: zero only for the right answer, and without gradients of the autoencoder."""

from dataclasses import replace

import pytest
import torch

from pipelines.train.pixel_loss import decoded_loss, picture_loss
from rigface.model import checkpoint
from rigface.model.diffusion import NO_DROPOUT, Draw, draw, start
from rigface.model.latents import LatentConditions, LatentExample
from rigface.model.model_config import Process


@pytest.fixture
def example() -> LatentExample:
    torch.manual_seed(0)
    a, b, c, d = torch.randn(4, 2, 4, 16, 16)
    return LatentExample(LatentConditions(a, b, torch.randn(2, 52), reference=c), d)


def knows(example: LatentExample, process: Process, drawn: Draw, error: float | torch.Tensor = 0.0):
    """A model that answers the velocity of the line plus an error."""
    begin = start(process, example.conditions, drawn.noise)
    return lambda latents, timestep, *_, **__: begin - example.target + error


def test_errors_count_where_they_have_weight(example):
    process, vae = Process("bridge", latent_scale=0.18215), checkpoint.tiny().vae
    drawn = draw(process, example.target, NO_DROPOUT, torch.Generator().manual_seed(1))
    error = torch.zeros(2, 4, 16, 16)
    error[..., 2:4] = 0.5
    losses = []
    for columns in (slice(0, 16), slice(0, 6), slice(10, 16)):
        weights = torch.zeros(2, 1, 16, 16)
        weights[..., columns] = 1
        weighted = replace(example, weights=weights)
        losses.append(decoded_loss(knows(example, process, drawn, error), vae, weighted, process, drawn))
    everywhere, there, away = ([float(part) for part in loss] for loss in losses)
    plain = decoded_loss(knows(example, process, drawn, error), vae, example, process, drawn)
    assert everywhere == pytest.approx([float(part) for part in plain])
    assert there[1] == pytest.approx(everywhere[1])
    assert away[1] == pytest.approx(0, abs=1e-9)
    assert away[0] < 0.5 * there[0]  # a decoder's pixel sees some cells around it


def test_decoded_loss_is_zero_only_for_right_answer(example):
    process, vae = Process("bridge", latent_scale=0.18215), checkpoint.tiny().vae
    drawn = draw(process, example.target, NO_DROPOUT, torch.Generator().manual_seed(1))
    right = decoded_loss(knows(example, process, drawn), vae, example, process, drawn)
    wrong = decoded_loss(knows(example, process, drawn, 0.3), vae, example, process, drawn)
    assert all(loss.item() == pytest.approx(0, abs=1e-6) for loss in right)
    assert all(loss.item() > 1e-3 for loss in wrong)


def test_decoded_loss_trains_networks_but_not_autoencoder(example):
    bridge = checkpoint.tiny(kind="bridge")
    process = bridge.config.process
    drawn = draw(process, example.target, NO_DROPOUT, torch.Generator().manual_seed(1))
    pictures, latents = decoded_loss(bridge.model.train(), bridge.vae, example, process, drawn)
    (pictures + latents).backward()
    assert bridge.model.denoiser.conv_out.weight.grad.abs().sum() > 0
    assert bridge.model.identity.conv_in.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in bridge.vae.parameters())


def test_picture_loss_is_zero_for_same_picture_and_counts_edges():
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert picture_loss(picture, picture) == 0
    for shift, counted in ((0.02, 0.02**2 / 0.2), (0.1, 0.05), (0.3, 0.25)):  # no edge has changed
        assert picture_loss(picture + shift, picture) == pytest.approx(counted, rel=1e-3)
    blurred = torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert picture_loss(blurred, picture) > 1.5 * picture_loss(blurred, picture, levels=0)
