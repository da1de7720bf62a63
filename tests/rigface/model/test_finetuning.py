"""Trainable weights, and LoRA adapters in peft's layout: saved, merged, loaded and switched."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.model import checkpoint, finetuning
from rigface.model.diffusion import Dropout
from rigface.model.latents import LatentConditions, LatentExample
from rigface.model.model_config import Process
from rigface.model.pipeline import RigFacePipeline
from rigface.model.unets import RigFaceModel
from rigface.testing import toy_start
from tests.rigface.model.conftest import denoising_loss


def trained(model: RigFaceModel, seed: int, steps: int = 2) -> RigFaceModel:
    """The model after steps on random examples."""
    torch.manual_seed(seed)
    finetuning.select(model, "lora", rank=2)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        denoising_loss(model, random_example(model.expression_size), Process(), dropout=Dropout(0, 0, 0, 0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def random_example(expression: int = 52) -> LatentExample:
    latents = torch.randn(2, 4, 16, 16)
    return LatentExample(LatentConditions(latents, latents, torch.randn(2, expression), reference=latents), latents)


def adapter_folder(folder: Path, base: RigFaceModel, seed: int) -> tuple[Path, RigFaceModel, RigFaceModel]:
    """A folder with an adapter, the trained model, and the merged one."""
    model, merged = trained(copy.deepcopy(base), seed=seed), copy.deepcopy(base)
    finetuning.write_adapter(model.state_dict(), folder)
    merged.load_state_dict(finetuning.merged(model.state_dict()))
    return folder, model, merged


@pytest.fixture
def shallow() -> checkpoint.Checkpoint:
    """A toy with two blocks of attention, for tests that copy and convert it often."""
    return toy_start.shallow(middle=True)


def test_fresh_lora_predicts_as_its_base_and_trains_few_weights(tiny, asked):
    plain = copy.deepcopy(tiny.model)
    assert finetuning.select(tiny.model, "lora", rank=2) < 0.2 * sum(p.numel() for p in plain.parameters())
    with torch.no_grad():
        torch.testing.assert_close(tiny.model(**asked()), plain(**asked()))


@pytest.mark.parametrize("trainable", finetuning.TRAINABLE)
def test_every_trained_parameter_gets_a_gradient(tiny, trainable):
    model = tiny.model
    assert finetuning.select(model, trainable, rank=2) > 0
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # from zero, lora_A would have no gradient in the first step
    model.default_text.normal_()  # zeros give text attention no gradient
    denoising_loss(model.train(), random_example(), Process(), dropout=Dropout(0, 0, 0, 0)).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not idle


def test_unknown_choice_is_refused(tiny):
    with pytest.raises(ValueError, match="trainable: want one of all, inputs, attention, lora"):
        finetuning.select(tiny.model, "some")


@pytest.mark.parametrize("trainable", finetuning.TRAINABLE)
def test_conditions_change_the_prediction_after_training_a_plain_diffusion_model(tiny, asked, trainable):
    model = tiny.model
    with torch.no_grad():  # as `from_sd15` leaves it
        model.denoiser.conv_in.weight[:, model.latent_channels :] = 0
        model.denoiser.class_embedding.weight.zero_()
    finetuning.select(model, trainable, rank=2)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    denoising_loss(model, random_example(), Process(), dropout=Dropout(0, 0, 0, 0)).backward()
    optimizer.step()
    with torch.no_grad():
        expected = model(**asked())
        for name in ("background", "render", "expression_code"):
            assert not torch.equal(model(**asked() | {name: asked()[name].flip(0) + 1}), expected), name


def test_trained_adapter_loads_into_fresh_base_with_same_output(shallow, asked, tmp_path):
    folder, model, merged = adapter_folder(tmp_path / "adapter", shallow.model, seed=1)
    fresh = PeftModel.from_pretrained(copy.deepcopy(shallow.model), str(folder))
    with torch.no_grad():
        expected = model.eval()(**asked())
        torch.testing.assert_close(fresh(**asked()), expected)
        torch.testing.assert_close(merged(**asked()), expected)
        assert not torch.allclose(shallow.model(**asked()), expected)
    assert merged.state_dict().keys() == shallow.model.state_dict().keys()


def picture(pipe: RigFacePipeline) -> np.ndarray:
    black = np.zeros((32, 32, 3), np.uint8)
    given = (black + 90, black, black + 200, np.ones(52, np.float32))
    return pipe(*given, seed=3, steps=2, output_type="latent").latents.numpy()


def test_pipeline_switches_adapters_and_back_to_its_base(shallow, tmp_path):
    folders = [adapter_folder(tmp_path / str(seed), shallow.model, seed)[0] for seed in (1, 2)]
    pipe = RigFacePipeline.of(shallow)
    base = picture(pipe)
    pictures = []
    for folder in folders:
        pipe.use_adapter(folder)
        pictures.append(picture(pipe))
    assert not np.allclose(pictures[0], pictures[1])
    assert not np.allclose(pictures[0], base)
    pipe.use_adapter(folders[0])
    assert np.array_equal(picture(pipe), pictures[0])
    pipe.save_pretrained(tmp_path / "merged")
    assert np.allclose(picture(RigFacePipeline.from_pretrained(tmp_path / "merged")), pictures[0], atol=1e-4)
    pipe.use_adapter(None)
    assert np.array_equal(picture(pipe), base)
    pipe.save_pretrained(tmp_path / "base")
    assert np.allclose(picture(RigFacePipeline.from_pretrained(tmp_path / "base")), base, atol=1e-4)


def test_adapter_of_another_model_is_refused_and_leaves_the_model_as_it_was(shallow, tmp_path):
    folder, *_ = adapter_folder(tmp_path / "adapter", toy_start.shallow(middle=True, expression=9).model, seed=1)
    fitting, *_ = adapter_folder(tmp_path / "fitting", shallow.model, seed=1)
    pipe = RigFacePipeline.of(shallow)
    base = picture(pipe)
    for _ in range(2):  # as the first adapter, and after others
        with pytest.raises(BadCheckpoint, match="does not fit the model"):
            pipe.use_adapter(folder)
        assert np.allclose(picture(pipe), base, atol=1e-4)
        pipe.use_adapter(fitting)
        pipe.use_adapter(None)
    with pytest.raises(MissingAsset, match="lacks adapter_config"):
        pipe.use_adapter(tmp_path)
