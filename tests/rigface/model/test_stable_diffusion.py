"""Stable Diffusion 1.5 as a folder, a single file, in half precision, and its autoencoders alone."""

import hashlib
import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile
from rigface.model import checkpoint
from rigface.model.latents import encode
from rigface.model.model_config import UPSTREAM_PROMPT
from rigface.model.stable_diffusion import load_text, load_unet, load_vae
from rigface.model.text import TextEncoder
from rigface.model.unets import network, stock
from rigface.model.weights import WEIGHTS
from rigface.testing.official import diffusion

# sha256 of the JSON of the sorted [original name, part, diffusers' name] of all 964 tensors, as diffusers converts them
OFFICIAL_NAMES = "e18071dc9c584d35"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return diffusion.write_sd15(tmp_path_factory.mktemp("sd") / "folder")


@pytest.fixture(scope="module")
def file(folder):
    return diffusion.write_sd15_file(folder.parent / "toy-v1-5.safetensors", folder)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_names_in_the_single_file_are_official(folder):
    rows = []
    for part, weights in (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model")):
        for name in load_file(folder / part / f"{weights}.safetensors"):
            rows.append([diffusion.original_name(part, name), part, name.removeprefix("text_model.")])
    assert len(rows) == 964
    assert hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:16] == OFFICIAL_NAMES


def test_single_file_gives_the_tensors_of_the_folder(file, folder):
    assert same(load_unet(file)[1], load_unet(folder)[1])
    assert same(load_vae(file).state_dict(), load_vae(folder).state_dict())
    assert same(load_text(file).model.state_dict(), load_text(folder).model.state_dict())


def test_training_starts_from_a_single_file_as_from_the_folder(file, folder):
    text = torch.zeros(7, 16)
    one, other = (checkpoint.from_sd15(place, default_text=text).model for place in (file, folder))
    assert same(one.state_dict(), other.state_dict())


def test_released_networks_take_autoencoder_and_text_of_a_single_file(file, folder, tmp_path):
    released, text = diffusion.write_rigface(tmp_path), torch.zeros(77, 16)
    one, other = (checkpoint.load_upstream(released, place, default_text=text) for place in (file, folder))
    assert same(one.vae.state_dict(), other.vae.state_dict())
    assert same(one.text_encoder.model.state_dict(), other.text_encoder.model.state_dict())


def test_parity_figures_of_folder_and_file(shared, tmp_path):
    place = shared / "parity" / "official" / "sd15"
    if not place.is_dir():
        pytest.skip("needs the parity figures of Stable Diffusion")
    shutil.copy(place / "toy-v1-5-pruned-emaonly.safetensors", tmp_path / "toy.safetensors")
    for part in ("unet", "vae", "text_encoder"):
        (tmp_path / "toy" / part).mkdir(parents=True)
        shutil.copy(place / "folder" / part / "config.json", tmp_path / "toy" / part)
    shutil.copytree(place / "folder" / "tokenizer", tmp_path / "toy" / "tokenizer")
    figures = load_file(place / "io.safetensors")
    for source in (tmp_path / "toy.safetensors", place / "folder"):
        text = load_text(source)(["the ab of and"])
        assert (text - figures["last_hidden_state"]).abs().max() < 1e-5
        config, weights = load_unet(source)
        unet = UNet2DConditionModel(**stock(config)).eval()
        unet.load_state_dict(weights)
        vae = load_vae(source).eval()
        with torch.no_grad():
            noise = torch.cat(
                [unet(figures["latents"], t, encoder_hidden_states=text).sample for t in figures["timesteps"]]
            )
            decoded = vae.decode(figures["latents"] / 0.18215).sample
            mean = encode(vae, figures["image"] / 2 + 0.5)
        assert (noise - figures["noise"]).abs().max() < 1e-5
        assert (decoded - figures["decoded"]).abs().max() < 1e-5
        assert (mean - figures["latent_mean"]).abs().max() < 1e-5


def test_configs_are_read_off_the_tensors_of_a_bare_file(tmp_path):
    """Without configs beside it, a file is Stable Diffusion 1.5 at the widths of its tensors."""
    config = network((32, 32, 64, 64), text_dim=768, layers=2)[0]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**stock(config))
    state = {n: torch.zeros(p.shape, dtype=torch.float16) for n, p in unet.state_dict().items()}
    save_file({diffusion.original_name("unet", n): p for n, p in state.items()}, tmp_path / "sd.safetensors")
    read, weights = load_unet(tmp_path / "sd.safetensors")
    assert read == config
    assert weights.keys() == state.keys()
    assert {w.dtype for w in weights.values()} == {torch.float32}


def test_half_precision_folder_without_others_is_read(folder, tmp_path):
    place = tmp_path / "half"
    shutil.copytree(folder, place)
    for part, name in (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model")):
        whole = place / part / f"{name}.safetensors"
        half = {n: t.half() if t.is_floating_point() else t for n, t in load_file(whole).items()}
        save_file(half, place / part / f"{name}.fp16.safetensors", metadata={"format": "pt"})
        whole.rename(place / part / f"{name}.non_ema.safetensors")
    weights = load_unet(place)[1]
    assert same(weights, {n: t.half().float() for n, t in load_unet(folder)[1].items()})
    assert {t.dtype for t in load_vae(place).state_dict().values()} == {torch.float32}
    assert {t.dtype for t in load_text(place).model.parameters()} == {torch.float32}


def test_weights_without_averaging_are_not_mixed_in(folder, tmp_path):
    place = tmp_path / "both"
    shutil.copytree(folder / "unet", place / "unet")
    whole = place / "unet" / f"{WEIGHTS}.safetensors"
    for kind in ("fp16", "non_ema"):
        save_file(
            {n: torch.zeros_like(t) for n, t in load_file(whole).items()}, whole.with_suffix(f".{kind}.safetensors")
        )
    assert same(load_unet(place)[1], load_unet(folder)[1])


def test_old_names_of_the_autoencoders_attention_are_read(folder, tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    shutil.copytree(folder / "vae", tmp_path / "vae")
    weights = load_file(folder / "vae" / f"{WEIGHTS}.safetensors")
    for new, name in old.items():
        weights = {n.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for n, t in weights.items()}
    save_file(weights, tmp_path / "vae" / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})
    assert same(load_vae(tmp_path).state_dict(), load_vae(folder).state_dict())


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_autoencoder_alone_in_one_file(folder, tmp_path, layout):
    weights = load_file(folder / "vae" / f"{WEIGHTS}.safetensors")
    if layout == "original":
        named = {diffusion.original_name("vae", n).removeprefix("first_stage_model."): t for n, t in weights.items()}
        weights = {n: t[..., None, None] if ".attn_1." in n and t.ndim == 2 else t for n, t in named.items()}
    save_file(weights, tmp_path / "vae-ft-mse.safetensors")
    (tmp_path / "vae-ft-mse" / "vae").mkdir(parents=True)
    shutil.copy(folder / "vae" / "config.json", tmp_path / "vae-ft-mse" / "vae")
    assert same(load_vae(tmp_path / "vae-ft-mse.safetensors").state_dict(), load_vae(folder).state_dict())


def test_autoencoder_beside_a_file_replaces_its_own(file, tmp_path):
    shutil.copy(file, tmp_path / "sd.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        other = diffusion.vae()
    other.save_pretrained(tmp_path / "sd" / "vae")
    assert same(load_vae(tmp_path / "sd.safetensors").state_dict(), other.state_dict())


def test_standard_prompts_need_no_tokenizer():
    from transformers import CLIPTextConfig, CLIPTextModel

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    encoder = TextEncoder(CLIPTextModel(CLIPTextConfig(vocab_size=49408, **shape)), None)
    tokens = encoder._tokens(["", UPSTREAM_PROMPT])
    assert tokens.shape == (2, 77)
    assert tokens[0].tolist() == [49406] + [49407] * 76
    assert tokens[1, :10].tolist() == [49406, 320, 2660, 705, 539, 320, 2533, 269, 49407, 49407]
    with pytest.raises(MissingAsset, match="came without a tokenizer"):
        encoder(["a person with glasses"])


def test_other_files_are_refused_by_name(file, tmp_path):
    (tmp_path / "v1-5.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(UnsafeFile, match=r"v1-5\.ckpt.*Take the \.safetensors"):
        checkpoint.from_sd15(tmp_path / "v1-5.ckpt")
    save_file({"model.diffusion_model.a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadCheckpoint, match=r"input_blocks\.1\.1.*is not there"):
        load_unet(tmp_path / "other.safetensors")
    with pytest.raises(BadCheckpoint, match=r"there is no cond_stage_model"):
        load_text(tmp_path / "other.safetensors")
    wide = {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(1, 1024)}
    save_file(wide, tmp_path / "sd2.safetensors")
    with pytest.raises(BadCheckpoint, match=r"want Stable Diffusion 1\.5, whose text has 768 channels; this has 1024"):
        load_unet(tmp_path / "sd2.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BadCheckpoint, match=r"torn\.safetensors"):
        load_unet(tmp_path / "torn.safetensors")


def test_missing_tensor_is_named(file, tmp_path):
    tensors = load_file(file)
    del tensors["first_stage_model.decoder.conv_in.bias"]
    save_file(tensors, tmp_path / "sd.safetensors")
    shutil.copytree(file.with_suffix(""), tmp_path / "sd")
    with pytest.raises(BadCheckpoint, match=r"missing decoder\.conv_in\.bias"):
        load_vae(tmp_path / "sd.safetensors")
