"""FaceFusion: recorded tokens, reference attention, and no state on modules."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import UNet2DConditionModel

from rigface.model.attention import RecordTokens, ReferenceTokens, blocks, install, record
from rigface.model.unets import network


@torch.no_grad()
def test_denoiser_without_reference_equals_stock_network(tiny, asked):
    stock = UNet2DConditionModel.from_config(tiny.model.denoiser.config)
    stock.load_state_dict(tiny.model.denoiser.state_dict())
    q = asked()
    expected = stock(
        torch.cat([q["latents"], q["background"], q["render"]], dim=1),
        q["timestep"],
        tiny.model.default_text.expand(2, -1, -1),
        class_labels=q["expression_code"],
    ).sample
    torch.testing.assert_close(tiny.model(**q), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_projected_tokens_give_same_prediction_as_recorded_ones(tiny, asked, person):
    q, reference = asked(), person()
    ahead = tiny.model(**q, reference_tokens=tiny.model.encode_reference(reference))
    torch.testing.assert_close(ahead, tiny.model(**q, reference=reference), atol=1e-6, rtol=0)
    assert (ahead - tiny.model(**q)).abs().max() > 1e-3, "the person must matter"


@torch.no_grad()
def test_dropped_rows_ignore_reference_and_do_not_change_other_rows(tiny, asked, person):
    q, reference_tokens = asked(), tiny.model.encode_reference(person())
    drop = torch.tensor([[True, False, False], [False, False, False]])
    mixed, alone, full = (
        tiny.model(**q, reference_tokens=reference_tokens, drop=drop),
        tiny.model(**q),
        tiny.model(**q, reference_tokens=reference_tokens),
    )
    torch.testing.assert_close(mixed[0], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1], full[1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_single_reference_serves_whole_batch(tiny, asked, person):
    q, single = asked(3), tiny.model.encode_reference(person(1))
    assert single.batch == 1
    torch.testing.assert_close(
        tiny.model(**q, reference_tokens=single), tiny.model(**q, reference_tokens=single.expand(3)), atol=1e-6, rtol=0
    )
    with pytest.raises(ValueError, match="reference tokens of 2 people, but 3 rows"):
        ReferenceTokens.cat([single, single]).expand(3)


@torch.no_grad()
def test_threads_sharing_a_model_keep_references_apart(tiny, person):
    people = [person(1, seed=i) for i in range(8)]
    alone = [tiny.model.encode_reference(p) for p in people]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: torch.no_grad()(tiny.model.encode_reference)(p), people))
    for a, b in zip(alone, together):
        for name in a.blocks:
            assert torch.equal(a.blocks[name][0], b.blocks[name][0])


def test_gradient_checkpointing_keeps_gradients(tiny, asked, person):
    model, q, reference = tiny.model.train(), asked(), person()
    drop = torch.tensor([[True, False, True], [False, True, False]])

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**q, reference=reference, drop=drop).square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.enable_gradient_checkpointing()
    again = gradients()
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-7, rtol=1e-5, msg=name)


def test_recorded_tokens_are_those_before_the_norm(tiny, person):
    recorded = record(tiny.model.identity, person(), tiny.model.default_text.expand(2, -1, -1))
    names = dict(blocks(tiny.model.identity))
    assert recorded.blocks.keys() == names.keys()
    for name, (tokens,) in recorded.blocks.items():
        normed = names[name].norm1(tokens)
        assert (tokens - normed).abs().max() > 0.1, name


def test_deep_copy_uses_its_own_norm(tiny, asked, person):
    """An average of weights is a deep copy: its processors must not refer to the original."""
    twin = copy.deepcopy(tiny.model)
    q, reference = asked(), person()
    with torch.no_grad():
        before = twin(**q, reference=reference)
        for _, block in blocks(tiny.model.denoiser):
            block.norm1.weight.add_(1.0)
        assert torch.equal(twin(**q, reference=reference), before)
        assert not torch.allclose(tiny.model(**q, reference=reference), before, atol=1e-3)


def test_model_can_be_pickled(tiny, asked, person):
    file = io.BytesIO()
    torch.save(tiny.model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    q, reference = asked(), person()
    with torch.no_grad():
        torch.testing.assert_close(twin(**q, reference=reference), tiny.model(**q, reference=reference))


def test_reference_tokens_count_their_bytes(tiny, person):
    reference_tokens = tiny.model.encode_reference(person(1))
    tokens = {"down_blocks.0": 64 * 16, "mid_block": 16 * 32, "up_blocks.1": 64 * 16}
    values = sum(tokens[name.split(".attentions")[0]] for name in reference_tokens.blocks)
    assert reference_tokens.nbytes == 4 * 2 * values


def test_networks_with_other_blocks_are_refused():
    narrow, _ = network((16, 32), text_dim=24, heads=4, layers=1, groups=4)
    _, wide = network((32, 64), text_dim=24, heads=4, layers=1, groups=4)
    with pytest.raises(ValueError, match="same transformer blocks"):
        install(UNet2DConditionModel(**narrow), UNet2DConditionModel(**wide))


def test_attention_mask_is_refused(tiny, asked):
    q = asked()
    with pytest.raises(ValueError, match="masks are not supported"):
        tiny.model.denoiser(
            torch.cat([q["latents"], q["background"], q["render"]], dim=1),
            q["timestep"],
            tiny.model.default_text.expand(2, -1, -1),
            class_labels=q["expression_code"],
            encoder_attention_mask=torch.ones(2, 7),
        )


def test_forward_without_recorder_records_nothing(tiny):
    _, block = next(blocks(tiny.model.identity))
    assert RecordTokens("b")(block, (torch.zeros(1, 2, 16),), {}) is None
