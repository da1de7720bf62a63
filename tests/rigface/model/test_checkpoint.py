"""Checkpoint folders: save, load, refusals and their messages."""

import importlib
import json
import os
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile
from rigface.model import checkpoint
from rigface.model.checkpoint import ModelConfig
from rigface.model.model_config import Process
from rigface.model.weights import WEIGHTS, read_weights
from rigface.types import HeadSpec

HEAD = HeadSpec("open", "1", shape=40, expression=52, albedo=30, expression_names=("jawOpen", "smile"))


@pytest.fixture(scope="module")
def saved_once(tiny_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, tiny_once)
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    """A saved checkpoint that a test may damage."""
    return shutil.copytree(saved_once, tmp_path / "ours")


@torch.no_grad()
def same_answers(first, second, asked, person) -> bool:
    q, reference = asked(), person()
    return torch.equal(first(**q, reference=reference), second(**q, reference=reference))


def test_saved_checkpoint_loads_with_same_answers(tiny, tmp_path, asked, person):
    tiny.config = ModelConfig(Process("bridge", bridge_noise=0.1, steps=5), HEAD, "texture", size=256, prompt="a face")
    tiny.model.default_text.fill_(0.5)
    checkpoint.save(tmp_path / "ours", tiny)
    back = checkpoint.start(str(tmp_path / "ours"))
    assert back.config == tiny.config
    assert same_answers(tiny.model, back.model, asked, person)
    latents = torch.randn(1, 4, 8, 8)
    assert torch.equal(tiny.vae.decode(latents).sample, back.vae.decode(latents).sample)
    frozen = {n for n, p in tiny.model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, p in back.model.named_parameters() if not p.requires_grad}


def test_diffusers_reads_saved_networks(saved, tiny):
    index = json.loads((saved / "model_index.json").read_text())
    for name, (library, kind) in ((n, part) for n, part in index.items() if n[0] != "_" and part[0]):
        assert getattr(importlib.import_module(library), kind).from_pretrained(saved / name) is not None
    assert {"unet_id", "unet_denoise", "vae", "scheduler"} < set(index)
    unet = UNet2DConditionModel.from_pretrained(saved, subfolder="unet_denoise", local_files_only=True)
    assert unet.config.class_embed_type == "simple_projection"
    assert torch.equal(unet.conv_in.weight, tiny.model.denoiser.conv_in.weight)


def test_float16_halves_file_size(saved, tiny, tmp_path):
    checkpoint.save(tmp_path / "half", tiny, dtype=torch.float16)
    sizes = [sum(f.stat().st_size for f in folder.rglob("*.safetensors")) for folder in (saved, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    back = checkpoint.load(tmp_path / "half").model.denoiser.conv_in.weight
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, tiny.model.denoiser.conv_in.weight, atol=1e-3, rtol=1e-3)


def test_save_writes_given_weights_instead_of_own(tiny, tmp_path):
    average = {name: tensor / 2 for name, tensor in tiny.model.state_dict().items()}
    checkpoint.save(tmp_path / "ema", tiny, weights=average)
    back = checkpoint.load(tmp_path / "ema").model.state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in average.items())
    average.pop("identity.conv_in.bias")
    with pytest.raises(BadCheckpoint, match=r"missing conv_in\.bias"):
        checkpoint.save(tmp_path / "ema", tiny, weights=average)
    with pytest.raises(MissingAsset, match=r"no config\.json"):
        checkpoint.load(tmp_path / "ema")  # half written is not written


def test_released_layout_loads_in_all_variants(upstream_folder, tmp_path, figures, upstream, asked, person):
    """As released: below `checkpoint-N`, the newest counts; `.bin` of bare tensors; VAE in a folder of its own."""
    for network in ("unet_id", "unet_denoise"):
        for number in ("9000", "70000"):
            place = tmp_path / network / f"checkpoint-{number}"
            shutil.copytree(upstream_folder / network, place)
        weights = load_file(place / f"{WEIGHTS}.safetensors")
        (place / f"{WEIGHTS}.safetensors").unlink()
        torch.save(weights, place / f"{WEIGHTS}.bin")
        save_file({n: 0 * t for n, t in weights.items()}, tmp_path / network / f"checkpoint-9000/{WEIGHTS}.safetensors")
    loaded = checkpoint.start(str(tmp_path), sd15=upstream_folder, default_text=figures["text"][0])
    for name, tensor in upstream.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert loaded.config.expression_field == "bfm_expression"


def test_released_weights_start_with_codes_of_another_head(upstream_folder, upstream, figures, asked):
    start = checkpoint.load_upstream(upstream_folder, default_text=figures["text"][0], expression=52)
    expected, actual = upstream.model.state_dict(), start.model.state_dict()
    assert {n for n in expected if expected[n].shape != actual[n].shape or not torch.equal(expected[n], actual[n])} == {
        "denoiser.class_embedding.weight"
    }
    assert not actual["denoiser.class_embedding.weight"].any()
    assert start.config.expression_field == "expression"
    assert start.model(**asked()).isfinite().all()


def test_sharded_weights_load_as_one(upstream_folder, tmp_path):
    whole = load_file(upstream_folder / "unet_id" / f"{WEIGHTS}.safetensors")
    names = sorted(whole)
    for i, part in enumerate((names[:50], names[50:]), start=1):
        save_file({n: whole[n] for n in part}, tmp_path / f"{WEIGHTS}-0000{i}-of-00002.safetensors")
    assert read_weights(tmp_path).keys() == whole.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv_in.bias"), r"unet_id.*missing conv_in\.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda w: w.update({"conv_in.bias": torch.zeros(3)}), r"conv_in\.bias: want \(16,\), got \(3,\)"),
    ],
)
def test_weights_not_fitting_config_are_refused_by_name(saved, change, message):
    file = saved / "unet_id" / f"{WEIGHTS}.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)
    with pytest.raises(BadCheckpoint, match=message):
        checkpoint.load(saved)


class Boom:
    """An object whose unpickling runs code."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_pickles_are_refused_without_running_code(saved, tmp_path, upstream_folder, figures):
    trace = tmp_path / "executed"
    with open(saved / "vae" / "notes.bin", "wb") as file:
        pickle.dump(Boom(trace), file)
    with pytest.raises(UnsafeFile, match=r"notes\.bin"):
        checkpoint.load(saved)
    shutil.copytree(upstream_folder, tmp_path / "up")
    (tmp_path / "up" / "unet_id" / f"{WEIGHTS}.safetensors").unlink()
    torch.save({"conv_in.bias": Boom(trace)}, tmp_path / "up" / "unet_id" / f"{WEIGHTS}.bin")
    with pytest.raises(UnsafeFile, match="was not executed"):
        checkpoint.start(str(tmp_path / "up"), default_text=figures["text"][0])
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "want format"),
        ({"version": 99}, "want version 1, got 99"),
        ({"colour": "red"}, "colour"),
        ({"render_style": "crayon"}, "render_style"),
        ({"process": {"kind": "magic"}}, "magic"),
        ({"process": {"latent_scale": 1.0}}, "latent_scale is 1.0, but the VAE's"),
    ],
)
def test_invalid_config_is_refused_by_name(saved, change, message):
    content = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(BadCheckpoint, match=message):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    "lost", ["config.json", "unet_id/config.json", "default_text.safetensors", f"vae/{WEIGHTS}.safetensors"]
)
def test_missing_file_is_named(saved, lost):
    (saved / lost).unlink()
    with pytest.raises(MissingAsset, match=lost.split("/")[-1].replace(".", r"\.")):
        checkpoint.load(saved)


def test_damaged_weights_are_refused_by_name(saved):
    (saved / "unet_id" / f"{WEIGHTS}.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(BadCheckpoint, match=r"unet_id.*no safetensors file"):
        checkpoint.load(saved)


@pytest.fixture
def sd15(tmp_path, tiny):
    """A folder in the layout of Stable Diffusion 1.5, with the widths of the toy models."""
    config = {k: v for k, v in tiny.model.identity.config.items() if not k.startswith("_")}
    torch.manual_seed(5)
    UNet2DConditionModel(**config).save_pretrained(tmp_path / "sd" / "unet")
    tiny.vae.save_pretrained(tmp_path / "sd" / "vae")
    return tmp_path / "sd"


@torch.no_grad()
def test_untrained_denoiser_equals_stable_diffusion(sd15, asked):
    words = torch.randn(7, 24)
    start = checkpoint.start(f"sd15:{sd15}", expression=52, default_text=words)
    unet = UNet2DConditionModel.from_pretrained(sd15 / "unet", local_files_only=True)
    q = asked()
    expected = unet(q["latents"], q["timestep"], words.expand(2, -1, -1)).sample
    torch.testing.assert_close(start.model(**q), expected, atol=1e-5, rtol=0)


def test_both_networks_start_as_separate_copies(sd15, asked, person):
    model = checkpoint.start(f"sd15:{sd15}", default_text=torch.zeros(7, 24)).model.train()
    a, b = model.identity.conv_out.weight, model.denoiser.conv_out.weight
    assert torch.equal(a, b)
    assert a.data_ptr() != b.data_ptr()
    model(**asked(), reference=person()).square().mean().backward()
    assert model.denoiser.class_embedding.weight.grad.abs().sum() > 0, "what starts at zero must learn"
    assert model.denoiser.conv_in.weight.grad[:, 4:].abs().sum() > 0


def test_missing_text_encoder_is_named(sd15):
    with pytest.raises(MissingAsset, match="text_encoder/"):
        checkpoint.start(f"sd15:{sd15}")


def test_tiny_checkpoint_repeats_and_keeps_global_generator(tiny, asked, person):
    before = torch.get_rng_state()
    assert same_answers(checkpoint.start("tiny").model, tiny.model, asked, person)
    assert not same_answers(checkpoint.tiny(seed=1).model, tiny.model, asked, person)
    assert torch.equal(before, torch.get_rng_state())


def test_config_survives_json():
    config = ModelConfig(Process("v_prediction", steps=9), HEAD, "shape", "bfm_expression", 256, "hello")
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert ModelConfig.from_json(json.loads(json.dumps(replace(config, head=None).to_json()))).head is None


def test_saved_vae_config_has_no_local_path(tmp_path):
    checkpoint.save(tmp_path / "first", checkpoint.tiny())
    checkpoint.save(tmp_path / "second", checkpoint.load(tmp_path / "first"))
    assert "first" not in (tmp_path / "second" / "vae" / "config.json").read_text()
    assert checkpoint.load(tmp_path / "second").vae.config["scaling_factor"] == pytest.approx(0.18215)


def test_saved_weights_have_permissions_of_folder(tmp_path, tiny):
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    checkpoint.save(folder, tiny)
    modes = {p.name: p.stat().st_mode & 0o777 for p in folder.rglob("*.safetensors")}
    assert set(modes.values()) == {0o644}, modes
