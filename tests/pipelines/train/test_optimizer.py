"""Groups of parameters, and the learning rate by step."""

from dataclasses import replace

import pytest
import torch

from pipelines.train.config import debug
from pipelines.train.optimizer import groups_of, learning_rate
from rigface.errors import PlanError


def test_parameters_are_grouped_by_the_first_pattern_they_match_and_by_decay():
    factors = ("identity.*bias=0", "identity.*=0.1")
    config = replace(debug(), lr_groups=factors, decay="matrices", weight_decay=0.02)
    shapes = {"denoiser.conv.weight": 4, "denoiser.norm.weight": 1, "identity.a.weight": 2, "identity.a.bias": 1}
    named = {name: torch.nn.Parameter(torch.zeros([2] * dimensions)) for name, dimensions in shapes.items()}
    groups = {tuple(group.parameters): (group.scale, group.decay) for group in groups_of(config, named)}
    assert groups == {
        ("denoiser.conv.weight",): (1.0, 0.02), ("denoiser.norm.weight",): (1.0, 0.0),
        ("identity.a.bias",): (0.0, 0.0), ("identity.a.weight",): (0.1, 0.02),
    }  # fmt: skip
    assert len(groups_of(debug(), named)) == 1
    with pytest.raises(PlanError, match=r"'unet\.\*' names no parameter that is trained; they begin with denoiser.c"):
        groups_of(replace(config, lr_groups=("unet.*=2",)), named)
    with pytest.raises(PlanError, match="want PATTERN=FACTOR"):
        replace(config, lr_groups=("identity.*",))


def test_learning_rate_warms_up_and_decays():
    config = replace(debug(), learning_rate=1.0, warmup_steps=10, steps=110, schedule="cosine")
    assert learning_rate(config, 5) == pytest.approx(0.5)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(0.505, abs=1e-3)
    assert learning_rate(config, 110) == pytest.approx(0.01)
    assert learning_rate(replace(config, schedule="constant"), 100) == 1.0
