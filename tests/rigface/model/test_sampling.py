"""Sampling: schedulers, guidance, and batches whose rows are independent."""

from dataclasses import replace

import pytest
import torch

from rigface.model.attention import ReferenceTokens
from rigface.model.diffusion import clean_estimate, coefficients, mix, prediction_target
from rigface.model.latents import LatentConditions
from rigface.model.model_config import KINDS, STRAIGHT, Process
from rigface.model.sampling import (
    FLOW_SCHEDULERS,
    NOISE_SCHEDULERS,
    Guidance,
    SamplingBatch,
    SamplingState,
    make_scheduler,
    seeded,
)

SHAPE = (4, 8, 8)


def conditions(batch: int = 1, seed: int = 0) -> LatentConditions:
    random = torch.Generator().manual_seed(seed)
    background, render = torch.randn(2, batch, *SHAPE, generator=random)
    return LatentConditions(background, render, torch.randn(batch, 52, generator=random))


def finish(predict, *states: SamplingState) -> list[torch.Tensor]:
    batch = SamplingBatch(predict)
    for state in states:
        batch.join(state)
    while batch.states:
        batch.step()
    return [state.latents for state in states]


def oracle(process: Process, clean: torch.Tensor):
    """A network that knows the picture and predicts accordingly."""

    def predict(latents, timestep, *_, **__):
        a, b = coefficients(process, timestep)
        return prediction_target(process, clean.expand_as(latents), (latents - a * clean) / b, timestep)

    return predict


def test_text_of_a_region_is_followed_there_alone_and_by_its_guidance():
    def predict(latents, timestep, *_, text, drop=None, **__):
        answer = text[:, :1, :1, None].expand_as(latents)
        return answer if drop is None else torch.where(drop[:, 2, None, None, None], 0.0, answer)

    mask = torch.zeros(1, 1, *SHAPE[1:])
    mask[..., :4] = 1
    moved = []
    for scale in (1.0, 3.0):
        c = replace(conditions(2), text=torch.ones(2, 5, 6))
        state = SamplingState(
            Process(), c, torch.zeros(2, *SHAPE), scheduler="ddim", steps=1, guidance=Guidance(text=scale),
            regions=[(torch.full((2, 5, 6), 2.0), mask)],
        )  # fmt: skip
        assert state.rows == 2 * (2 if scale == 1 else 3)
        (result,) = finish(predict, state)
        moved.append(result / result[:, :, :, 4:].mean())
        assert torch.allclose(moved[-1][..., :4], torch.tensor(2.0))  # twice the answer, however it is guided
        assert torch.allclose(moved[-1][..., 4:], torch.tensor(1.0))
    torch.testing.assert_close(*moved)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(k, n) for k in KINDS if k not in STRAIGHT for n in (*NOISE_SCHEDULERS, "PNDMScheduler")]
    + [("zero-terminal-SNR", n) for n in ("unipc", "ddim", "dpm++", "euler")]
    + [(k, n) for k in STRAIGHT for n in FLOW_SCHEDULERS],
)
def test_every_scheduler_reaches_the_picture(kind, name):
    process = Process("v_prediction", zero_terminal_snr=True) if kind == "zero-terminal-SNR" else Process(kind)
    clean = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(9))
    noise, generators = seeded([0], SHAPE)
    state = SamplingState(process, conditions(), noise, scheduler=name, steps=8, generators=generators)
    (result,) = finish(oracle(process, clean), state)
    torch.testing.assert_close(result, clean, atol=0.15, rtol=0)  # some stop at the last sigma above zero, 0.03
    torch.testing.assert_close(state.preview(), clean, atol=5e-3, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "bridge"])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_unguided_step_evaluates_network_once_per_row(tiny, kind, steps):
    calls = []

    def count(latents, *args, **kwargs):
        calls.append(latents.shape[0])
        return tiny.model(latents, *args, **kwargs)

    with torch.no_grad():
        finish(count, SamplingState(Process(kind), conditions(3), torch.randn(3, *SHAPE), steps=steps))
    assert calls == [3] * steps


@torch.no_grad()
def test_guidance_equals_its_formula(tiny, person):
    tiny.model.default_text.normal_(generator=torch.Generator().manual_seed(0))
    process, c, noise = Process(), conditions(2), torch.randn(2, *SHAPE)
    c = LatentConditions(c.background, c.render, c.expression_code, text=torch.randn(2, 7, 24))
    reference_tokens, scales = tiny.model.encode_reference(person()), {"identity": 2.0, "attributes": 0.5, "text": 4.0}
    state = SamplingState(process, c, noise, reference_tokens, scheduler="ddim", steps=4, guidance=Guidance(**scales))
    assert state.rows == 8
    asked, t = state.model_inputs()
    batch = SamplingBatch(tiny.model)
    batch.join(state)
    batch.step()

    def ask(*without: int) -> torch.Tensor:
        drop = torch.zeros(2, 3, dtype=torch.bool)
        drop[:, list(without)] = True
        return tiny.model(
            noise,
            t[:2],
            c.background,
            c.render,
            c.expression_code,
            text=c.text,
            reference_tokens=reference_tokens,
            drop=drop,
        )

    full = ask()
    answer = full + 1.0 * (full - ask(0)) - 0.5 * (full - ask(1)) + 3.0 * (full - ask(2))
    torch.testing.assert_close(state.preview(), clean_estimate(process, noise, answer, t[:2]), atol=1e-3, rtol=1e-4)
    assert torch.equal(asked[:2], noise)


@torch.no_grad()
def test_single_guidance_equals_classifier_free_guidance(tiny, person):
    """scale * with + (1 - scale) * without, and 0 means without."""
    reference_tokens, noise = tiny.model.encode_reference(person(1)), torch.randn(1, *SHAPE)
    state = {
        s: SamplingState(Process(), conditions(), noise, m, scheduler="ddim", steps=2, guidance=Guidance(identity=s))
        for s, m in ((0.0, reference_tokens), (1.0, reference_tokens))
    }
    unconditioned = SamplingState(Process(), conditions(), noise, None, scheduler="ddim", steps=2)
    zero, first, without = (finish(tiny.model, w)[0] for w in (state[0.0], state[1.0], unconditioned))
    torch.testing.assert_close(zero, without, atol=1e-4, rtol=0)
    assert not torch.allclose(first, without, atol=1e-3)


@torch.no_grad()
def test_edit_does_not_depend_on_batch(tiny, person):
    """Other schedulers, steps, guidance and references join late and leave early."""

    def mine() -> SamplingState:
        noise, generators = seeded([7], SHAPE)
        return SamplingState(
            Process(),
            conditions(1, seed=1),
            noise,
            reference_tokens,
            scheduler="euler_a",
            steps=5,
            generators=generators,
        )

    reference_tokens, other = tiny.model.encode_reference(person(1)), tiny.model.encode_reference(person(2, seed=5))
    (alone,) = finish(tiny.model, mine())
    batch, state = SamplingBatch(tiny.model), mine()
    batch.join(
        SamplingState(
            Process(), conditions(2), torch.randn(2, *SHAPE), other, steps=2, guidance=Guidance(attributes=3.0)
        )
    )
    batch.step()
    batch.join(state)
    batch.step()
    quitter = SamplingState(
        Process(), conditions(), torch.randn(1, *SHAPE), reference_tokens, scheduler="ddim", steps=9
    )
    batch.join(quitter)
    batch.step()
    batch.leave(quitter)
    while batch.states:
        batch.step()
    torch.testing.assert_close(state.latents, alone, atol=1e-4, rtol=0)
    assert quitter.index == 1
    assert not quitter.done


@torch.no_grad()
def test_finished_states_are_returned_once(tiny):
    batch = SamplingBatch(tiny.model)
    short, long = (SamplingState(Process(), conditions(), torch.randn(1, *SHAPE), steps=n) for n in (1, 2))
    for state in (short, long):
        batch.join(state)
    assert batch.step() == [short]
    assert batch.step() == [long]
    assert batch.step() == []


@torch.no_grad()
def test_failing_scheduler_ends_only_its_own_state(tiny, monkeypatch):
    batch = SamplingBatch(tiny.model)
    good, bad = (SamplingState(Process(), conditions(), torch.randn(1, *SHAPE), steps=2) for _ in range(2))
    for state in (good, bad):
        batch.join(state)
    monkeypatch.setattr(bad, "advance", lambda *_: [][0])
    assert batch.step() == []
    assert isinstance(bad.failed, IndexError)
    assert batch.step() == [good]
    assert good.done
    assert good.failed is None
    batch.join(bad)
    with pytest.raises(IndexError):  # nobody else is there to go on
        batch.step()
    assert not batch.states


@torch.no_grad()
def test_state_of_another_shape_is_refused(tiny, person):
    batch, noise = SamplingBatch(tiny.model), torch.randn(1, *SHAPE)
    batch.join(SamplingState(Process(), conditions(), noise, steps=1))
    with pytest.raises(ValueError, match="cannot batch"):
        batch.join(SamplingState(Process(), conditions(), noise, tiny.model.encode_reference(person(1)), steps=1))


def test_strength_below_one_begins_at_render():
    process, c, noise = Process("v_prediction"), conditions(), torch.randn(1, *SHAPE)
    state = SamplingState(process, c, noise, scheduler="ddim", steps=10, strength=0.3)
    assert state.steps - state.index == 3
    expected = mix(process, 0.18215 * c.render, noise, state.timestep.expand(1))
    torch.testing.assert_close(state.latents, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("v_prediction", n) for n in ("unipc", "dpm++", "euler", "ddim", "lcm")] + [("flow", "euler")],
)
def test_half_strength_reaches_the_picture(kind, name):
    process, clean = Process(kind), torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(9))
    noise, generators = seeded([0], SHAPE)
    state = SamplingState(process, conditions(), noise, scheduler=name, steps=8, strength=0.5, generators=generators)
    (result,) = finish(oracle(process, clean), state)
    torch.testing.assert_close(result, clean, atol=0.15, rtol=0)


def test_each_state_has_its_own_scheduler():
    first, second = (make_scheduler(Process(), "unipc", 4) for _ in range(2))
    assert first is not second


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("epsilon", "fast"),
        ("bridge", "ddim"),
        ("epsilon", "FlowMatchEulerDiscreteScheduler"),
        ("epsilon", "UNet2DModel"),
        ("epsilon", "CogVideoXDPMScheduler"),  # would break at its first step, with all that share the batch
    ],
)
def test_unsuitable_scheduler_is_refused_by_name(kind, name):
    with pytest.raises(ValueError, match=f"{name}.*there are .*unipc"):
        make_scheduler(Process(kind), name, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps: want at least 1"), ({"strength": 0.0}, "strength"), ({"strength": 1.5}, "strength")],
)
def test_number_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingState(Process(), conditions(), torch.randn(1, *SHAPE), **options)


def test_noise_of_each_row_follows_its_seed():
    both, _ = seeded([3, 4], SHAPE)
    alone, _ = seeded([4], SHAPE)
    assert torch.equal(both[1:], alone)


def test_reference_tokens_join_by_row(tiny, person):
    with torch.no_grad():
        first, second = (tiny.model.encode_reference(person(1, seed=s)) for s in (1, 2))
    joined = ReferenceTokens.cat([first, second])
    name = next(iter(joined.blocks))
    assert joined.batch == 2
    assert torch.equal(joined.blocks[name][1][1:], second.blocks[name][1])
