"""Every recipe: learning, weights left alone, storage, edits, and the conditions that it reads."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from rigface.errors import PlanError
from rigface.model import checkpoint
from rigface.model.diffusion import Dropout, draw, row_losses
from rigface.model.model_config import RecipeName
from rigface.model.pipeline import RigFacePipeline
from rigface.model.recipes.protocol import AdapterRecipe, recipe_of
from rigface.storage.model_cache import _is_weights

RECIPES = get_args(RecipeName)
READS = {  # beside text; all others read background, render, code and reference
    "controlnet": {"hint"},
    "t2i": {"hint"},
    "ip_adapter": {"reference"},
    "instantid": {"reference", "hint"},
    "dreambooth": set(),
    "dreambooth_lora": set(),
    "textual_inversion": set(),
}
recipes = pytest.mark.parametrize("name", RECIPES)


def losses(made, example, steps=6, rate=1e-2):
    """Training losses on one batch, with the same noise each time."""
    learning = [p for p in made.model.parameters() if p.requires_grad]
    optimizer, found = torch.optim.AdamW(learning, lr=rate), []
    drawn = draw(made.config.process, example.target, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        loss = row_losses(made.model, example, made.config.process, drawn).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@recipes
@pytest.mark.slow
def test_one_batch_is_learned_the_rest_stays_and_the_folder_predicts_the_same_and_edits(built, example, tmp_path, name):
    made = built(name)
    one = example(made)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters() if not p.requires_grad}
    curve = losses(made, one, rate={"textual_inversion": 1.0, "dreambooth_lora": 0.1}.get(name, 1e-2))
    assert curve[-1] < (0.99 if name == "textual_inversion" else 0.9) * curve[0]  # two rows of a toy encoder do little
    assert all(torch.equal(before[n], p) for n, p in made.model.named_parameters() if n in before)
    recipe = recipe_of(name)
    checkpoint.save(tmp_path, made)
    if isinstance(recipe, AdapterRecipe):
        (tmp_path / "alone").mkdir()
        recipe.write_adapter(tmp_path / "alone", made, made.model.state_dict())
        assert list((tmp_path / "alone").rglob("*.safetensors"))
    written = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.safetensors") if "alone" not in str(p)]
    assert [path for path in written if not _is_weights(path)] == []  # a copy from S3 is whole
    read = checkpoint.load(tmp_path)
    assert (read.config.recipe, read.config.identity) == (name, made.config.identity)
    drawn = draw(made.config.process, one.target, Dropout(), torch.Generator().manual_seed(1))
    with torch.no_grad():
        kept, again = (row_losses(m.model, one, m.config.process, drawn) for m in (made, read))
    torch.testing.assert_close(again, kept, atol=1e-5, rtol=1e-4)
    edits_pictures(tmp_path, name)


def edits_pictures(folder, name):
    """Check that a stored model edits, and that its people dropped change the result where they are read."""
    pipe = RigFacePipeline.from_pretrained(folder)
    black = np.zeros((32, 32, 3), np.uint8)
    person = {"identity": np.ones(128, np.float32)} if pipe.model_config.identity else {}
    given = (black + 90, black, black + 200, np.ones(52, np.float32))
    whole, guided = (pipe(*given, **person, identity_scale=scale, output_type="np").images for scale in (1, 3))
    assert whole.shape == (1, 32, 32, 3)
    assert np.array_equal(whole, guided) == ("reference" not in READS.get(name, {"reference"}))
    if person:
        with pytest.raises(ValueError, match="identity vectors of dlib"):
            pipe(*given)


@recipes
def test_prediction_depends_on_the_conditions_of_the_recipe_and_on_no_other(built, example, name):
    made = built(name)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))  # from zero, some read nothing yet
        c = example(made).conditions
        asked = {n: getattr(c, n) for n in ("background", "render", "expression_code", "reference")}
        if made.model.reads_pixels:
            asked["hint"] = c.hint
        given = {"latents": c.background, "timestep": torch.tensor([10, 900])}
        answer = made.model(**given, **asked)
        read = {n for n in asked if not torch.equal(made.model(**given, **asked | {n: asked[n].flip(0)}), answer)}
        tokens = made.model.encode_reference(asked.pop("reference"))
        again = made.model(**given, **asked, reference_tokens=tokens)
    assert read == READS.get(name, {"background", "render", "expression_code", "reference"})
    torch.testing.assert_close(again, answer, atol=1e-5, rtol=1e-4)


def test_start_without_an_identity_network_is_refused_where_one_is_trained(built, start):
    start.model = built("controlnet").model
    with pytest.raises(PlanError, match="no identity network"):
        built("lora")


def test_recipe_on_a_stored_recipe_begins_with_its_denoiser(built, start):
    plain = built("ip_adapter").model.denoiser.conv_in.weight
    start.model = built("t2i").model
    start.config = replace(start.config, identity="dlib")
    again = built("controlnet")
    assert torch.equal(plain, again.model.denoiser.conv_in.weight)
    assert again.config.identity == ""
