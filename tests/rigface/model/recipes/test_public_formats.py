"""Adapters of recipes in diffusers' own classes, and public weights read or refused here."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from rigface.errors import BadCheckpoint, PlanError
from rigface.model import checkpoint, finetuning
from rigface.model.adapters import Adapters
from rigface.model.recipes import ip_adapter
from rigface.model.recipes.protocol import recipe_of
from rigface.testing.toy_start import write_text
from tests.rigface.model.recipes.conftest import OPTIONS


@pytest.fixture
def trained(built, tmp_path):
    """A recipe's model with other weights than at its start, and the folder of what is trained."""

    def train(name):
        made, folder = built(name), tmp_path / name
        folder.mkdir()
        with torch.no_grad():
            for parameter in made.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        recipe_of(name).write_adapter(folder, made, made.model.state_dict())
        return made.model, folder

    return train


def test_controlnet_is_diffusers_own(trained):
    model, folder = trained("controlnet")
    stock = ControlNetModel.from_pretrained(folder / "controlnet")
    asked = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 7, 24), torch.rand(1, 6, 16, 16)
    with torch.no_grad():
        for own, read in zip(model.controlnet(*asked, return_dict=False)[0], stock(*asked, return_dict=False)[0]):
            torch.testing.assert_close(read, own)


def test_t2i_adapter_is_diffusers_own(trained):
    model, folder = trained("t2i")
    hint = torch.rand(1, 6, 16, 16)
    with torch.no_grad():
        pairs = zip(model.adapter(hint), T2IAdapter.from_pretrained(folder / "t2iadapter")(hint))
        for own, read in pairs:
            torch.testing.assert_close(read, own)


def test_ip_adapter_is_loaded_by_diffusers_into_a_stock_unet(trained, start_once):
    model, folder = trained("ip_adapter")
    stock: UNet2DConditionModel = recipe_of("t2i").build(start_once, OPTIONS).model.denoiser
    parts = {"image_proj": {}, "ip_adapter": {}}  # as `load_ip_adapter` reads them from the file
    for name, tensor in load_file(folder / ip_adapter.FILE).items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    stock._load_ip_adapter_weights(parts, low_cpu_mem_usage=False)
    latents, text, person = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 24), torch.randn(2, 128)
    time = torch.tensor([5, 600])
    with torch.no_grad():
        own = model(latents, time, latents, latents, torch.zeros(2, 52), text=text, reference=person)
        images = {"image_embeds": [person[:, None]]}
        read = stock(latents, time, encoder_hidden_states=text, added_cond_kwargs=images, return_dict=False)[0]
    torch.testing.assert_close(read, own)


def test_learned_token_is_loaded_by_diffusers_and_used_in_prompts(trained, built, start_once, tmp_path):
    model, folder = trained("textual_inversion")
    encoder = write_text(tmp_path / "clip", length=7)
    parts = {"vae": start_once.vae, "unet": model.denoiser, "scheduler": DDIMScheduler()}
    parts |= {"text_encoder": encoder.model, "tokenizer": encoder.tokenizer}
    stock = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    stock.load_textual_inversion(folder, weight_name="learned_embeds.safetensors", local_files_only=True)
    table = stock.text_encoder.get_input_embeddings().weight
    rows = [stock.tokenizer.convert_tokens_to_ids(name) for name in ("<sks>", "<sks>_1")]
    torch.testing.assert_close(table[rows], model.rows)
    made = built("textual_inversion")
    checkpoint.save(tmp_path / "model", replace(made, model=model))
    read = checkpoint.load(tmp_path / "model")
    torch.testing.assert_close(read.text_encoder(["a <sks> <sks>_1"])[0], read.model.default_text)
    whole = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    assert torch.equal(whole.unet.conv_in.weight, model.denoiser.conv_in.weight)
    assert whole.scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize("name", ["controlnet", "t2i", "ip_adapter", "instantid", "textual_inversion"])
def test_training_begins_with_weights_in_the_recipes_own_format(trained, built, name):
    model, folder = trained(name)
    again = built(name, replace(OPTIONS, weights=folder)).model.state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


def test_layers_of_dreambooth_adapt_the_denoiser_that_they_were_trained_on(trained, built):
    model, folder = trained("dreambooth_lora")
    wanted = finetuning.merged(model.state_dict())
    adapters = Adapters(built("controlnet").model)
    adapters.use(folder)
    found = adapters.merged().denoiser.state_dict()
    assert len(load_file(folder / "pytorch_lora_weights.safetensors")) > 8
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[f"denoiser.{name}"], atol=1e-5, rtol=1e-4)


def test_low_rank_layers_of_a_face_id_file_are_added_to_the_denoiser(built, start_once, tmp_path):
    unet = recipe_of("t2i").build(start_once, OPTIONS).model.denoiser
    file, added = ip_adapter.fresh(unet, 128), {}
    names = list(unet.attn_processors)
    for number, layer in ((0, "to_q"), (1, "to_k"), (len(names) - 1, "to_out")):
        place = f"{names[number].removesuffix('.processor')}.{layer}{'.0' * (layer == 'to_out')}.weight"
        out, into = unet.get_parameter(place).shape
        down, up = torch.randn(2, into), torch.randn(out, 2)
        key = f"ip_adapter.{number}.{layer}_lora"
        file |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
        added[place] = up @ down
    save_file(file, tmp_path / "faceid.safetensors")
    begun = built("ip_adapter", replace(OPTIONS, weights=tmp_path / "faceid.safetensors")).model.denoiser.state_dict()
    for name, tensor in unet.state_dict().items():
        torch.testing.assert_close(begun[name], tensor + added.get(name, 0))
    save_file(file | {f"ip_adapter.99.to_q_lora.{w}.weight": torch.ones(1, 1) for w in ("down", "up")}, tmp_path / "b")
    with pytest.raises(BadCheckpoint, match="low-rank layers are of another denoiser"):
        built("ip_adapter", replace(OPTIONS, weights=tmp_path / "b"))


@pytest.mark.parametrize("channels", [1, 3])
def test_public_weights_begin_as_they_were_with_the_render_as_their_hint(built, start_once, tmp_path, channels):
    unet = recipe_of("t2i").build(start_once, OPTIONS).model.denoiser
    how = {"conditioning_channels": channels, "conditioning_embedding_out_channels": (16, 32)}
    public = {
        "controlnet": ControlNetModel.from_unet(unet, **how),
        "t2i": T2IAdapter(in_channels=channels, channels=[16, 32], num_res_blocks=1, downscale_factor=2),
    }
    latents, text, time = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 24), torch.tensor([5])
    hint = torch.rand(1, 6, 16, 16)
    with torch.no_grad():
        own = hint[:, :3] if channels == 3 else hint[:, :3].mean(1, keepdim=True)
        for name, network in public.items():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            network.save_pretrained(tmp_path / name)
            begun = built(name, replace(OPTIONS, weights=tmp_path / name)).model
            trained = begun.controlnet if name == "controlnet" else begun.adapter
            asked = ((latents, time, text), {"return_dict": False}) if name == "controlnet" else ((), {})
            theirs, ours = (n(*asked[0], h, **asked[1]) for n, h in ((network, own), (trained, hint)))
            for a, b in zip(*((x[0] if name == "controlnet" else x) for x in (theirs, ours))):
                torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)
            assert any(p.requires_grad for p in trained.parameters())


def test_models_whose_hint_is_latents_still_load(built, tmp_path):
    made = built("controlnet")
    alone = {"conditioning_channels": 8, "conditioning_embedding_out_channels": (16,)}
    made.model.controlnet = ControlNetModel.from_unet(made.model.denoiser, **alone)
    checkpoint.save(tmp_path, made)
    read = checkpoint.load(tmp_path).model
    assert not read.reads_pixels
    latents, time = torch.randn(1, 4, 8, 8), torch.tensor([5])
    assert read(latents, time, latents, latents, torch.zeros(1, 52)).shape == latents.shape


def test_weights_for_other_conditions_are_refused_with_the_reason(built, start_once, tmp_path):
    unet = recipe_of("t2i").build(start_once, OPTIONS).model.denoiser
    ControlNetModel.from_unet(unet).save_pretrained(tmp_path / "canny")
    T2IAdapter(channels=[32, 64]).save_pretrained(tmp_path / "sketch")
    alone = {"conditioning_channels": 8, "conditioning_embedding_out_channels": (16,)}
    ControlNetModel.from_unet(unet, **alone).save_pretrained(tmp_path / "latents")
    clip = tmp_path / "plus.safetensors"
    save_file({"image_proj.latents": torch.zeros(1, 16, 8)}, clip)
    face_id = tmp_path / "faceid.safetensors"
    save_file(ip_adapter.fresh(unet, 512), face_id)
    for name, place, words in (
        (
            "controlnet",
            tmp_path / "canny",
            "6 channels and is shrunk 8 times; here it is pictures of 6 channels, 2 times",
        ),
        ("controlnet", tmp_path / "latents", "8 channels and is shrunk 1 times"),
        ("t2i", tmp_path / "sketch", r"shrunk 8 times to features of \[32, 64\]; "),
        ("ip_adapter", clip, "CLIP's embeddings"),
        ("ip_adapter", face_id, "vectors of 512 numbers, the examples' have 128"),
    ):
        with pytest.raises(BadCheckpoint, match=words):
            built(name, replace(OPTIONS, weights=place))
    with pytest.raises(PlanError, match="no text encoder"):
        recipe_of("dreambooth").build(replace(start_once, text_encoder=None), OPTIONS)
    with pytest.raises(PlanError, match="rigface pair --identity"):
        built("ip_adapter", replace(OPTIONS, identity=""))
    with pytest.raises(PlanError, match="--style points"):
        recipe_of("instantid").build(start_once, OPTIONS)
