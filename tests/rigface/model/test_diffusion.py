"""Diffusion processes with their four predictions, and the loss."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from rigface.model import checkpoint
from rigface.model.diffusion import (
    NO_DROPOUT,
    Draw,
    Dropout,
    clean_estimate,
    coefficients,
    draw,
    loss_weight,
    mix,
    prediction_target,
    row_losses,
    start,
    velocity,
)
from rigface.model.latents import LatentConditions, LatentExample
from rigface.model.model_config import KINDS, Process
from tests.rigface.model.conftest import denoising_loss

SHAPE = (2, 4, 8, 8)


@pytest.fixture
def example() -> LatentExample:
    random = torch.Generator().manual_seed(3)
    background, render, reference, target = (torch.randn(SHAPE, generator=random) for _ in range(4))
    code = torch.randn(2, 52, generator=random)
    return LatentExample(LatentConditions(background, render, code, reference=reference), target)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(time=st.floats(1, 998))
def test_clean_estimate_of_right_answer_is_clean(kind, time):
    process, t = Process(kind), torch.tensor([time, time])
    clean, begin = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    noisy = mix(process, clean, begin, t)
    answer = prediction_target(process, clean, begin, t)
    torch.testing.assert_close(clean_estimate(process, noisy, answer, t), clean, atol=1e-4, rtol=0)


def test_schedule_equals_stable_diffusion():
    stock = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    clean, noise = torch.randn(2, 3, 4, 8, 8)
    t = torch.tensor([0, 500, 999])
    torch.testing.assert_close(mix(Process(), clean, noise, t), stock.add_noise(clean, noise, t), atol=1e-5, rtol=0)
    v = prediction_target(Process("v_prediction"), clean, noise, t)
    torch.testing.assert_close(v, stock.get_velocity(clean, noise, t), atol=1e-5, rtol=0)
    t = t[1:]  # at 0 there is hardly any noise, and a velocity from a picture is ill-conditioned
    noisy = mix(Process(), clean[1:], noise[1:], t)
    torch.testing.assert_close(velocity(Process("sample"), noisy, clean[1:], t), v[1:], atol=1e-4, rtol=0)


def test_terminal_signal_is_zero_as_diffusers_rescales_it():
    process, t = Process("v_prediction", zero_terminal_snr=True), torch.tensor([0, 500, 999])
    stock = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    clean, noise = torch.randn(2, 3, 4, 8, 8)
    torch.testing.assert_close(mix(process, clean, noise, t), stock.add_noise(clean, noise, t), atol=1e-5, rtol=0)
    torch.testing.assert_close(mix(process, clean, noise, t)[2], noise[2])
    with pytest.raises(ValueError, match="wants v_prediction or sample"):
        Process(zero_terminal_snr=True)


def test_offset_moves_the_mean_of_each_channels_noise():
    like = torch.zeros(64, 4, 16, 16)
    plain, moved = (
        draw(Process(), like, generator=torch.Generator().manual_seed(0), noise_offset=o).noise for o in (0, 0.5)
    )
    change = moved - plain
    assert torch.equal(change.std((2, 3)).round(decimals=4), torch.zeros(64, 4))
    assert change.mean((2, 3)).std() == pytest.approx(0.5, abs=0.1)


def test_bridge_runs_from_preview_to_picture(example):
    process = Process("bridge", bridge_noise=0.5)
    noise = torch.randn(SHAPE)
    begin = start(process, example.conditions, noise)
    torch.testing.assert_close(begin, 0.18215 * example.conditions.render + 0.5 * noise)
    ends = [mix(process, example.target, begin, torch.full((2,), t)) for t in (0.0, 1000.0)]
    torch.testing.assert_close(ends[0], example.target)
    torch.testing.assert_close(ends[1], begin)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weight_of_same_error_is_equal_for_all_predictions(kind):
    """An error of the implied picture costs min(snr, gamma) times its square, whatever the network answers with."""
    process, t = Process(kind), torch.tensor([30.0, 400.0, 950.0])
    clean, begin = torch.randn(2, 3, 4, 8, 8)
    noisy, right = mix(process, clean, begin, t), prediction_target(process, clean, begin, t)
    wrong = right + 0.1
    cost = loss_weight(process, t, 5.0) * (wrong - right).square().mean((1, 2, 3))
    picture = (clean_estimate(process, noisy, wrong, t) - clean).square().mean((1, 2, 3))
    a, b = (c.flatten() for c in coefficients(process, t))
    torch.testing.assert_close(cost, (a / b).square().clamp(max=5) * picture, rtol=1e-2, atol=1e-6)
    assert loss_weight(process, t, 0).tolist() == [1, 1, 1]


def test_draws_repeat_and_cover_timesteps():
    like = torch.zeros(8, 4, 2, 2)
    first, second = (draw(Process(), like, Dropout(), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.timestep, second.timestep)
    assert torch.equal(first.noise, second.noise)
    assert torch.equal(first.drop, second.drop)
    eighths = (first.timestep / 125).floor().long()
    assert sorted(eighths.tolist()) == list(range(8)), "one timestep in each eighth"
    assert draw(Process(), like).drop is None
    bridge = draw(Process("bridge"), like).timestep
    assert (bridge > 0).all()
    assert (bridge <= 1000).all()


def test_conditions_are_dropped_at_given_rates():
    like, random = torch.zeros(4000, 1, 1, 1), torch.Generator().manual_seed(0)
    drop = draw(Process(), like, Dropout(identity=0.1, attributes=0.2, text=0.3, everything=0.05), random).drop
    rates = drop.float().mean(0)
    for rate, alone in zip(rates.tolist(), (0.1, 0.2, 0.3)):
        assert rate == pytest.approx(1 - (1 - alone) * 0.95, abs=0.025)
    assert drop.all(1).float().mean() == pytest.approx(0.05 + 0.95 * 0.006, abs=0.015)


def test_dropped_identity_gives_identity_network_no_gradient(tiny, example):
    everybody = Draw(torch.tensor([10.0, 900.0]), torch.randn(SHAPE), torch.tensor([[True, False, False]] * 2))
    row_losses(tiny.model, example, Process(), everybody).sum().backward()
    gradients = [p.grad for p in tiny.model.identity.parameters() if p.requires_grad]
    assert all(g is not None and not g.any() for g in gradients), "reached, for DDP, and zero"
    assert tiny.model.denoiser.conv_in.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_one_batch_falls(kind, example):
    """Gradients included: a few steps on one batch with one draw."""
    model, process = checkpoint.tiny(kind=kind).model.train(), Process(kind)
    drawn = draw(process, example.target, Dropout(), torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(8):
        loss = row_losses(model, example, process, drawn).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_loss_repeats_with_generator_and_accepts_float16(tiny, example):
    stored = example.map(lambda t: t.half())
    with torch.no_grad():
        losses = [
            denoising_loss(tiny.model, stored, Process(), generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
        ]
    assert losses[0] == losses[1] != losses[2]
    assert losses[0].dtype == torch.float32


def test_gradient_follows_the_weights_of_the_loss(example):
    process, weights = Process("flow"), torch.ones(2, 1, 8, 8)
    weights[..., 4:] = 0.25
    drawn = draw(process, example.target, NO_DROPOUT, torch.Generator().manual_seed(1))
    gradients = []
    for weighted in (example, replace(example, weights=weights)):
        answer = torch.zeros(SHAPE, requires_grad=True)
        row_losses(lambda *_, answer=answer, **__: answer, weighted, process, drawn).sum().backward()
        gradients.append(answer.grad)
    torch.testing.assert_close(gradients[1], gradients[0] * weights)


def test_zero_dropout_drops_nothing(tiny, example):
    seen = []

    def spy(*args, drop, **kwargs):
        seen.append(drop)
        return tiny.model(*args, drop=drop, **kwargs)

    with torch.no_grad():
        denoising_loss(spy, example, Process(), dropout=NO_DROPOUT)
        denoising_loss(spy, example, Process(), dropout=Dropout(text=1.0))
    assert seen[0] is None
    assert seen[1][:, 2].all()


@pytest.mark.parametrize("wrong", [{"kind": "noise"}, {"steps": 0}, {"latent_scale": 0.0}, {"bridge_noise": -1.0}])
def test_invalid_process_is_refused(wrong):
    with pytest.raises(ValueError, match="Process"):
        Process(**wrong)
