"""Stand-ins for Stable Diffusion 1.5 and the released networks load as the real ones do."""

import pytest
from safetensors import safe_open

from rigface.model import checkpoint
from rigface.testing.official import diffusion


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    return diffusion.write_sd15(tmp_path_factory.mktemp("sd15"))


def test_released_networks_load_beside_stable_diffusion(tmp_path, sd15):
    folder = diffusion.write_rigface(tmp_path)
    with safe_open(folder / "unet_denoise" / "diffusion_pytorch_model.safetensors", "np") as file:
        assert file.get_slice("au_aug_mlp.weight").get_shape() == [32, 64]
    loaded = checkpoint.load_upstream(folder, sd15)
    assert loaded.model.expression_size == 64
    assert loaded.config.prompt == "A close up of a person."


def test_tokenizer_knows_letters(sd15):
    from transformers import CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(sd15 / "tokenizer")("A ab").input_ids
    assert CLIPTokenizer.from_pretrained(sd15 / "tokenizer").convert_ids_to_tokens(tokens) == [
        "<|startoftext|>", "a</w>", "a", "b</w>", "<|endoftext|>",
    ]  # fmt: skip
