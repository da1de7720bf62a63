"""Latents: scaling, and the round trip of pictures."""

import numpy as np
import pytest
import torch

from rigface.model.latents import (
    LatentConditions,
    decode,
    encode,
    encode_conditions,
    encode_example,
    encode_target,
)
from rigface.types import Conditions, Example


@pytest.fixture
def example() -> Example:
    random = np.random.default_rng(0)
    reference, background, render, target = random.integers(0, 256, (4, 2, 32, 32, 3), np.uint8)
    return Example(Conditions(reference, background, render, np.ones((2, 52), np.float32)), target)


@torch.no_grad()
def test_condition_latents_are_unscaled_mode_and_target_is_scaled(tiny, example):
    pictures = torch.from_numpy(example.target).permute(0, 3, 1, 2) / 255
    mode = tiny.vae.encode(2 * pictures - 1).latent_dist.mode()
    torch.testing.assert_close(encode(tiny.vae, pictures), mode)
    torch.testing.assert_close(encode_target(tiny.vae, pictures), 0.18215 * mode)


@torch.no_grad()
def test_example_is_encoded_like_its_parts(tiny, example):
    latents = encode_example(tiny.vae, example)
    parts = encode_conditions(tiny.vae, example.conditions)
    for name in ("reference", "background", "render", "expression_code"):
        torch.testing.assert_close(getattr(latents.conditions, name), getattr(parts, name), atol=1e-5, rtol=0)
    pictures = torch.from_numpy(example.target).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(latents.target, encode_target(tiny.vae, pictures), atol=1e-5, rtol=0)
    assert encode_conditions(tiny.vae, example.conditions, reference=False).reference is None


@torch.no_grad()
def test_decode_divides_by_scaling_factor(tiny):
    latents = torch.randn(1, 4, 16, 16)
    expected = tiny.vae.decode(latents / 0.18215).sample
    torch.testing.assert_close(decode(tiny.vae, latents), expected / 2 + 0.5)


def test_cat_joins_rows(tiny):
    single = LatentConditions(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.zeros(1, 3))
    pair = LatentConditions.cat([single, single.map(lambda t: t + 1)])
    assert pair.batch == 2
    assert pair.text is None
    assert pair.expression_code[1].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("reference", np.zeros((2, 32, 31, 3), np.uint8), "Conditions.reference"),
        ("render", np.zeros((1, 32, 32, 3), np.uint8), "Conditions.render: want .2, 32, 32, 3. like the reference"),
        ("expression_code", np.zeros(52, np.float32), "Conditions.expression_code"),
    ],
)
def test_conditions_of_different_size_are_refused(example, field, value, message):
    good = {f: getattr(example.conditions, f) for f in ("reference", "background", "render", "expression_code")}
    with pytest.raises(ValueError, match=message):
        Conditions(**{**good, field: value})
