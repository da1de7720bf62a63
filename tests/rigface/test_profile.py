"""Profiles: values, defaults, and their place in a checkpoint's config."""

import pytest

from rigface.errors import BadCheckpoint
from rigface.model.model_config import RELEASED, ModelConfig
from rigface.profile import OWN, PROFILES, ConditionSpec, FaceProfile


def test_config_without_profile_means_the_own_one():
    content = ModelConfig().to_json()
    assert "profile" not in content
    assert ModelConfig.from_json(content).profile == OWN == PROFILES["own"]


def test_profile_survives_the_config():
    assert RELEASED.profile == PROFILES["rigface"]
    assert ModelConfig.from_json(RELEASED.to_json()) == RELEASED


def test_unknown_value_is_refused_by_its_field():
    with pytest.raises(ValueError, match="parser: want one of selfie, colours, bisenet, segformer, got 'guess'"):
        FaceProfile(parser="guess")
    with pytest.raises(ValueError, match=r"margin: want a share of the side in \[0, 0.5\)"):
        FaceProfile(margin=3)
    with pytest.raises(BadCheckpoint, match="head: want one of open, flame, basel, got 'closed'"):
        ModelConfig.from_json(RELEASED.to_json() | {"profile": {"head": "closed"}})
    with pytest.raises(BadCheckpoint, match="hat"):
        ModelConfig.from_json(RELEASED.to_json() | {"profile": {"hat": "none"}})


def test_models_of_two_profiles_take_different_conditions():
    assert RELEASED.conditions != ModelConfig(expression_field="bfm_expression").conditions
    assert len({RELEASED.conditions, RELEASED.conditions, ConditionSpec()}) == 2  # a key of composers
