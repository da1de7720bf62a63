"""Pipeline: arguments, outputs, batches, and independence of rows."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from PIL import Image

from rigface.errors import BadCheckpoint
from rigface.model import checkpoint
from rigface.model.pipeline import RigFacePipeline
from rigface.model.text import TextEncoder
from rigface.testing.toy_start import shallow
from rigface.types import Conditions


@pytest.fixture(scope="module")
def pipe() -> RigFacePipeline:
    return RigFacePipeline.from_pretrained("tiny")


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    pictures = {name: random.integers(0, 256, (3, 32, 32, 3), np.uint8) for name in ("source", "background", "render")}
    return {**pictures, "expression_code": random.normal(size=(3, 52)).astype(np.float32)}


def row(inputs: dict, i: int) -> dict:
    return {name: value[i] for name, value in inputs.items()}


def test_call_returns_pictures(pipe, inputs):
    out = pipe(**row(inputs, 0), seed=1)
    assert isinstance(out.images[0], Image.Image)
    assert out.images[0].size == (32, 32)
    array = pipe(**row(inputs, 0), seed=1, output_type="np").images
    assert array.shape == (1, 32, 32, 3)
    assert array.dtype == np.uint8
    assert np.array_equal(array[0], np.asarray(out.images[0]))


def test_conditions_of_a_bridge_alone_are_encoded_in_float32():
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for kind, is_exact in (("bridge", True), ("epsilon", False)):
        options = {"kind": kind, "scheduler": "euler"}
        plain, half = (RigFacePipeline.from_pretrained("tiny", autocast=t, **options) for t in (None, torch.bfloat16))
        (exact,), (rounded,) = plain._encode(picture), half._encode(picture)
        assert rounded.dtype == torch.float32
        assert torch.equal(exact, rounded) == is_exact
        assert torch.allclose(exact, rounded, atol=0.05 * float(exact.abs().max()))


def test_output_that_is_not_finite_is_no_picture(pipe):
    latents = torch.zeros(1, 4, 4, 4)
    assert pipe.pictures(latents).dtype == np.uint8
    with pytest.raises(BadCheckpoint, match="not finite"):
        pipe.pictures(latents * torch.nan)


def test_all_picture_types_give_same_output(pipe, inputs):
    one = row(inputs, 0)
    names = ("source", "background", "render")
    as_pil = {**one, **{n: Image.fromarray(one[n]) for n in names}}
    as_list = {**one, **{n: [one[n]] for n in names}}
    as_tensor = {**one, **{n: torch.from_numpy(one[n]).permute(2, 0, 1) / 255 for n in names}}
    latents = [pipe(**form, output_type="latent").latents for form in (one, as_pil, as_list, as_tensor)]
    for other in latents[1:]:
        torch.testing.assert_close(other, latents[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scheduler", ["dpm++", "euler_a"])
def test_row_output_does_not_depend_on_batch(pipe, inputs, scheduler):
    together = pipe(**inputs, seed=[5, 6, 7], scheduler=scheduler, output_type="latent").latents
    for i in range(3):
        alone = pipe(**row(inputs, i), seed=5 + i, scheduler=scheduler, output_type="latent").latents
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)
    assert not torch.allclose(pipe(**row(inputs, 0), seed=6, output_type="latent").latents, together[:1], atol=1e-2)


def test_reference_tokens_replace_source(pipe, inputs):
    one = row(inputs, 0)
    whole = pipe(**one, output_type="latent").latents
    reference_tokens = pipe.encode_reference(one.pop("source"))
    torch.testing.assert_close(
        pipe(**one, reference_tokens=reference_tokens, output_type="latent").latents, whole, atol=1e-4, rtol=0
    )


def test_single_source_serves_batch(pipe, inputs):
    clip = {**inputs, "source": inputs["source"][0]}
    latents = pipe(**clip, seed=2, output_type="latent").latents
    frame = pipe(**{**row(inputs, 1), "source": inputs["source"][0]}, seed=2, output_type="latent").latents
    torch.testing.assert_close(latents[1:2], frame, atol=1e-4, rtol=0)


def test_states_join_batch_between_steps(pipe, inputs):
    """The three parts of a call, for two requests of which the second comes a step later."""
    wishes = [{**row(inputs, i), "seed": i, "steps": 3 + i} for i in range(2)]
    batch, states = pipe.sampling_batch(), [pipe.begin(**wish) for wish in wishes]
    batch.join(states[0])
    batch.step()
    batch.join(states[1])
    finished = [state for _ in range(4) for state in batch.step()]
    assert finished == states
    for state, wish in zip(states, wishes):
        alone = pipe(**wish, output_type="np")
        torch.testing.assert_close(state.latents, alone.latents, atol=1e-4, rtol=0)
        assert np.abs(pipe.pictures(state.latents).astype(int) - alone.images).max() <= 1


def test_callback_sees_each_step_as_in_diffusers_and_may_change_it_or_end_the_edit(pipe, inputs):
    seen, asked = [], {"num_inference_steps": 4, "scheduler": "ddim", "output_type": "np"}

    def look(pipeline, index, time, tensors):
        seen.append((index, int(time), pipeline.pictures(tensors["clean"]).astype(int)))
        return tensors

    out = pipe(
        **row(inputs, 0), **asked, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["latents", "clean"]
    )
    assert [index for index, *_ in seen] == [0, 1, 2, 3]
    assert sorted((time for _, time, _ in seen), reverse=True) == [time for _, time, _ in seen]
    distance = [np.abs(preview - out.images).mean() for *_, preview in seen]
    assert distance[-1] < distance[0]
    emptied = pipe(**row(inputs, 0), **asked, callback_on_step_end=lambda *a: {"latents": a[-1]["latents"] * 0})
    assert not emptied.latents.any()

    def stop(*step):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pipe(**row(inputs, 0), callback_on_step_end=stop)


def test_it_is_a_diffusion_pipeline_with_parts_a_scheduler_to_replace_and_types_to_move_to(pipe, inputs):
    assert isinstance(pipe, DiffusionPipeline)
    assert set(pipe.components) == {"model", "vae", "scheduler", "text_encoder", "tokenizer"}
    assert (pipe.device.type, pipe.dtype) == ("cpu", torch.float32)
    other, one = RigFacePipeline.of(checkpoint.tiny()), row(inputs, 0)
    other.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    named = pipe(**one, scheduler="euler", output_type="latent").latents
    assert torch.equal(other(**one, output_type="latent").latents, named)
    assert other.to("cpu", torch.bfloat16) is other
    half = other(**one, output_type="latent").latents
    assert 0 < (half - named).abs().max() < 0.1 * named.abs().max()
    assert torch.equal(other.to(torch.float32)(**one, output_type="latent").latents, named)
    with pytest.raises(ValueError, match="answers of the kind 'v_prediction', and the model's are 'epsilon'"):
        pipe(**one, scheduler=DDIMScheduler(prediction_type="v_prediction"))


def test_edit_keeps_batch_axes_of_conditions(pipe, inputs):
    c = Conditions(inputs["source"], inputs["background"], inputs["render"], inputs["expression_code"])
    flat = pipe.edit(c)
    nested = pipe.edit(c.map(lambda a: a.reshape(1, 3, *a.shape[1:])))
    assert flat.shape == (3, 32, 32, 3)
    assert nested.shape == (1, 3, 32, 32, 3)
    assert np.array_equal(nested[0], flat)
    single = pipe.edit(c.map(lambda a: a[0]), reference_tokens=pipe.encode_reference(c.reference[0]))
    assert single.shape == (32, 32, 3)
    assert np.abs(single.astype(int) - flat[0]).max() <= 1


def test_saved_pipeline_gives_same_output(pipe, inputs, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    again = RigFacePipeline.from_pretrained(tmp_path / "p", channels_last=True)
    a, b = (p(**row(inputs, 0), output_type="latent").latents for p in (pipe, again))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    assert again.model_config == pipe.model_config


def test_bfloat16_output_is_close_and_equal_with_stored_weights(inputs):
    half = RigFacePipeline.from_pretrained("tiny", autocast=torch.bfloat16)
    assert half.model.denoiser.conv_in.weight.dtype == torch.bfloat16
    converting = RigFacePipeline.from_pretrained("tiny", autocast=torch.bfloat16, half_weights=False)
    assert converting.model.denoiser.conv_in.weight.dtype == torch.float32
    runs = [p(**row(inputs, 0), scheduler="ddim", output_type="latent").latents for p in (half, converting)]
    assert torch.equal(*runs)
    full = RigFacePipeline.from_pretrained("tiny")
    one = row(inputs, 0)
    a, b = (p(**one, scheduler="ddim", output_type="latent") for p in (half, full))
    assert a.latents.dtype == torch.float32
    assert 0 < (a.latents - b.latents).abs().max() < 0.1 * b.latents.abs().max()


def test_compiled_denoiser_gives_same_output(inputs):
    plain, graph = (RigFacePipeline.of(shallow(middle=True)) for _ in range(2))
    graph.model.denoiser.compile(backend="eager", fullgraph=True)  # what `compile=True` does, without its compiler
    a, b = (
        p(**row(inputs, 0), num_inference_steps=2, identity_scale=2.0, output_type="latent").latents
        for p in (plain, graph)
    )
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_bridge_checkpoint_edits(inputs):
    out = RigFacePipeline.from_pretrained("tiny", kind="bridge")(**inputs, seed=[0, 1, 2], output_type="pt").images
    assert out.shape == (3, 3, 32, 32)
    assert out.min() >= 0
    assert out.max() <= 1


def test_prompt_changes_output_with_text_encoder(inputs, clip_folder, tmp_path):
    toy = checkpoint.tiny()
    toy.text_encoder = TextEncoder.load(clip_folder)
    RigFacePipeline.of(toy).save_pretrained(tmp_path / "p")
    pipe = RigFacePipeline.from_pretrained(tmp_path / "p")
    one = row(inputs, 0)
    prompted = {p: pipe(**one, prompt=p, output_type="latent").latents for p in ("a b", "c d e f g h i j a b")}
    embedded = pipe(**one, prompt_embeds=pipe.encode_prompt("a b"), output_type="latent").latents
    assert torch.equal(prompted["a b"], embedded)
    assert not torch.allclose(*prompted.values(), atol=1e-4)
    louder = pipe(**one, prompt="a b", text_scale=3.0, output_type="latent").latents
    assert not torch.allclose(louder, prompted["a b"], atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": None}, "either source or reference_tokens"),
        ({"render": np.zeros((64, 64, 3), np.uint8)}, "render: want 32 x 32 px"),
        (
            {"render": np.zeros((2, 32, 32, 3), np.uint8), "background": np.zeros((3, 32, 32, 3), np.uint8)},
            "render: want 1 or 3",
        ),
        ({n: np.zeros((30, 30, 3), np.uint8) for n in ("source", "background", "render")}, "multiples of 4 px"),
        ({"expression_code": np.zeros(51)}, r"expression_code: want \(B, 52\)"),
        ({"seed": [1, 2]}, "seed: want one number, or 1"),
        ({"prompt": "hello"}, "no text encoder"),
        ({"prompt_embeds": torch.zeros(1, 7, 25)}, r"prompt_embeds: want \(B, 7, 24\)"),
        ({"output_type": "gif"}, "output_type: want pil"),
        ({"scheduler": "fast"}, "scheduler: 'fast'"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "latents or clean, got 'prompt_embeds'"),
    ],
)
def test_invalid_argument_is_refused_by_name(pipe, inputs, change, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{**row(inputs, 0), **change})


def test_detail_keeps_parts_that_model_leaves_alone():
    bridge = checkpoint.tiny(kind="bridge", bridge_noise=0.0)
    for parameter in bridge.model.denoiser.conv_out.parameters():
        torch.nn.init.zeros_(parameter)  # a bridge that does nothing: its answer is the render's latents
    bridge.config = dataclasses.replace(bridge.config, detail=True)
    pipe = RigFacePipeline.of(bridge)
    random = np.random.default_rng(0)
    source, background, render = random.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    image = pipe(source, background, render, np.zeros(52, np.float32), output_type="np").images[0]
    assert np.abs(image.astype(int) - render).max() <= 1
