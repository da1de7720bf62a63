"""LoRA files in the names of kohya and diffusers, as adapters of the denoiser."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rigface.errors import BadCheckpoint
from rigface.model.adapters import Adapters
from rigface.model.lora_files import DIFFUSERS_FILE

MODULE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
RANK, ALPHA = 4, 2.0


@pytest.fixture
def matrices(tiny):
    torch.manual_seed(0)
    out, into = tiny.model.denoiser.get_submodule(MODULE).weight.shape
    return torch.randn(RANK, into), torch.randn(out, RANK)


def named(kind, down, up):
    if kind == "kohya":
        at = f"lora_unet_{MODULE.replace('.', '_')}"
        te = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
        text = {f"{te}.lora_down.weight": torch.zeros(1, 8), f"{te}.lora_up.weight": torch.zeros(8, 1)}
        text[f"{te}.alpha"] = torch.tensor(1.0)
        unet = {f"{at}.lora_down.weight": down, f"{at}.lora_up.weight": up, f"{at}.alpha": torch.tensor(ALPHA)}
        return unet | text
    if kind == "diffusers":
        return {f"unet.{MODULE}.lora_A.weight": down, f"unet.{MODULE}.lora_B.weight": up * ALPHA / RANK}
    at = f"unet.{MODULE.removesuffix('.to_q')}.processor.to_q_lora"
    return {f"{at}.down.weight": down, f"{at}.up.weight": up * ALPHA / RANK}


@pytest.mark.parametrize("kind", ["kohya", "diffusers", "old diffusers"])
def test_merged_weight_is_base_plus_scaled_product(tiny, matrices, tmp_path, kind):
    place = tmp_path / "style.safetensors"
    save_file(named(kind, *matrices), tmp_path / DIFFUSERS_FILE if kind == "diffusers" else place)
    before = {name: weight.clone() for name, weight in tiny.model.state_dict().items()}
    adapters = Adapters(tiny.model)
    adapters.use(tmp_path if kind == "diffusers" else place)  # diffusers' users share folders
    merged = adapters.merged().state_dict()
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert changed == {f"denoiser.{MODULE}.weight"}
    want = before[f"denoiser.{MODULE}.weight"] + ALPHA / RANK * matrices[1] @ matrices[0]
    np.testing.assert_allclose(merged[f"denoiser.{MODULE}.weight"], want, atol=1e-5)
    adapters.use(None)
    assert torch.equal(adapters.merged().state_dict()[f"denoiser.{MODULE}.weight"], before[f"denoiser.{MODULE}.weight"])


def test_modules_of_different_ranks_keep_theirs(tiny, matrices, tmp_path):
    other = MODULE.replace("to_q", "to_v")
    wide = torch.ones(6, matrices[0].shape[1])
    second = {f"unet.{other}.lora_A.weight": wide, f"unet.{other}.lora_B.weight": torch.ones(len(matrices[1]), 6)}
    save_file(named("diffusers", *matrices) | second, tmp_path / "style.safetensors")
    before = tiny.model.denoiser.get_submodule(other).weight.clone()
    adapters = Adapters(tiny.model)
    adapters.use(tmp_path / "style.safetensors")
    merged = adapters.merged().denoiser.get_submodule(other).weight
    np.testing.assert_allclose((merged - before).detach(), np.full(before.shape, 6.0), atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv_in.weight": torch.zeros(2, 2)}, "want a LoRA of Stable Diffusion 1.5"),
        ({f"unet.{MODULE}.lora_A.weight": torch.zeros(4, 3), f"unet.{MODULE}.lora_B.weight": torch.zeros(3, 4)}, "fit"),
        ({f"unet.{MODULE}.lora_B.weight": torch.zeros(3, 4)}, "want a LoRA of Stable Diffusion 1.5"),
    ],
)
def test_other_files_are_refused(tiny, tmp_path, tensors, message):
    save_file(tensors, tmp_path / "style.safetensors")
    with pytest.raises(BadCheckpoint, match=f"style.*{message}"):
        Adapters(tiny.model).use(tmp_path / "style.safetensors")
