"""Start of a training: the model of any start, its process, compiled blocks and the layout of its memory."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from pipelines.train import model_setup
from pipelines.train.config import debug
from rigface.errors import PlanError
from rigface.model import checkpoint
from rigface.model.diffusion import Draw, row_losses
from rigface.model.latents import LatentConditions, LatentExample
from rigface.model.model_config import Process
from rigface.testing import fake_examples, toy_start


def test_plain_start_takes_the_examples_config_and_released_weights_keep_theirs(clip_folder):
    toy = checkpoint.tiny(expression=64)
    checkpoint.save(clip_folder, toy)
    for own in ("config.json", "default_text.safetensors"):  # now it is in the released layout
        (clip_folder / own).unlink()
    spec = fake_examples.spec(size=512)
    released = model_setup.load(replace(debug(), start=str(clip_folder)), spec)
    assert (released.model.expression_size, released.config.expression_field) == (52, "expression")
    assert released.config.head == spec.head
    model_setup.check(released, spec, None)
    with pytest.raises(PlanError, match="64 px, the model makes 512 px"):
        model_setup.check(released, fake_examples.spec(size=64), None)
    (clip_folder / "unet_id").rename(clip_folder / "unet")
    plain = model_setup.load(
        replace(debug(), start=f"sd15:{clip_folder}"), fake_examples.spec(size=64, style="texture")
    )
    assert (plain.config.size, plain.config.render_style, plain.config.head) == (64, "texture", spec.head)
    with pytest.raises(PlanError, match="multiples of"):
        model_setup.check(plain, fake_examples.spec(size=66, style="texture"), None)


def test_any_start_takes_any_process_and_samples_by_a_scheduler_for_it(clip_folder):
    toy_start.write(clip_folder)
    config = replace(debug(), start=f"sd15:{clip_folder}")
    textured = fake_examples.spec(style="texture")
    own = model_setup.load(config, textured).config.process
    for process, scheduler in (("v_prediction", "dpm++"), ("flow", "euler"), ("bridge", "euler")):
        made = model_setup.load(replace(config, process=process), textured).config
        assert (made.process.kind, made.process.scheduler) == (process, scheduler)
        assert (made.process.latent_scale, made.detail) == (own.latent_scale, process == "bridge")
    ended = model_setup.load(replace(config, process="v_prediction", zero_terminal_snr=True), textured).config.process
    assert ended.zero_terminal_snr
    with pytest.raises(PlanError, match="wants v_prediction or sample"):
        model_setup.load(replace(config, zero_terminal_snr=True), textured)
    with pytest.raises(PlanError, match="pair --style texture"):
        model_setup.load(replace(config, process="bridge"), fake_examples.spec())


def test_compiled_blocks_and_channels_last_give_the_same_loss_and_gradient():
    random = torch.Generator().manual_seed(0)
    noisy, background, render, reference, target = (torch.randn(1, 4, 16, 16, generator=random) for _ in range(5))

    def computed(model):
        conditions = LatentConditions(background, render, torch.ones(1, model.expression_size), reference=reference)
        drawn = Draw(torch.tensor([500]), noisy, torch.zeros(1, 3, dtype=torch.bool))
        loss = row_losses(model, LatentExample(conditions, target), Process(kind="flow"), drawn).mean()
        loss.backward()
        gradient = model.denoiser.conv_in.weight.grad
        return loss.item(), gradient.norm().item(), gradient.stride()

    def arranged(**settings):
        model = toy_start.shallow(kind="bridge").model.train()
        model_setup.arrange(model, replace(debug(), **settings))
        return model

    plain = computed(arranged())
    compiled = arranged()
    names = model_setup.compile_blocks(compiled, "eager")
    assert [name.split(".")[0] for name in names] == ["identity"] * 2 + ["denoiser"] * 2
    counters.clear()
    assert computed(compiled)[:2] == pytest.approx(plain[:2])
    assert counters["stats"]["unique_graphs"] == 3, "blocks of one shape share their code"
    assert not counters["graph_break"]
    laid_out = computed(arranged(channels_last=True))
    assert laid_out[:2] == pytest.approx(plain[:2], rel=1e-5)
    assert laid_out[2] != plain[2]
    seen = []
    hooked = arranged(channels_last=True, sharding="fsdp", workers=1)
    hooked.denoiser.conv_in.register_forward_hook(lambda _, args, __: seen.append(args[0].stride()))
    assert computed(hooked)[:2] == pytest.approx(plain[:2], rel=1e-5)  # with weights as they were
    assert seen[0][1] == 1, "channels are not last"
