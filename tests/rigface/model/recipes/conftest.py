"""Fixtures: every recipe on a toy start."""

import copy
from dataclasses import replace

import pytest
import torch

from rigface.model import checkpoint
from rigface.model.latents import LatentConditions, LatentExample
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions, recipe_of
from rigface.testing.toy_start import write_text

WIDTH = 128  # of identity vectors
OPTIONS = RecipeOptions(rank=2, identity="dlib", identity_width=WIDTH, prompt="a {}", token_rows=2)


@pytest.fixture(scope="session")
def start_once(tmp_path_factory) -> Checkpoint:
    start = checkpoint.tiny()
    start.text_encoder = write_text(tmp_path_factory.mktemp("clip"), length=7)
    start.model.default_text = start.text_encoder([""])[0]
    return start


@pytest.fixture
def start(start_once) -> Checkpoint:
    return copy.deepcopy(start_once)


@pytest.fixture
def built(start):
    """A recipe's checkpoint in training, by name."""

    def build(name: str, options: RecipeOptions = OPTIONS) -> Checkpoint:
        torch.manual_seed(0)
        if name == "instantid":
            start.config = replace(start.config, render_style="points")
        made = recipe_of(name).build(start, options)
        made.config = replace(made.config, recipe=name)
        return made

    return build


@pytest.fixture
def example():
    """Two examples for a recipe: people as latents, or as identity vectors."""

    def make(made: Checkpoint, seed: int = 0) -> LatentExample:
        random = torch.Generator().manual_seed(seed)
        background, render, target, reference = (torch.randn(2, 4, 8, 8, generator=random) for _ in range(4))
        code = torch.randn(2, made.model.expression_size, generator=random)
        if made.config.identity:
            reference = torch.randn(2, WIDTH, generator=random)
        hint = torch.rand(2, 6, 16, 16, generator=random) if made.model.reads_pixels else None
        return LatentExample(LatentConditions(background, render, code, reference=reference, hint=hint), target)

    return make
