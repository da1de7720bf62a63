"""Examples of a refiner: what they show."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.examples.pair_plan import StagingBank
from pipelines.refine.config import ExampleSettings
from pipelines.refine.examples import ExampleComposer, cells_of, examples_of, turned, with_other_lids
from rigface.errors import PlanError
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.refiner.regions import REGIONS, regions_of
from rigface.video.decode import read_frames as read_video
from tests import remembered
from tests.pipelines.made_faces import params_of


def test_regions_are_nested_from_the_outside_to_the_mouth(fixtures):
    image = next(read_video(str(fixtures / "clip.mp4"))).image
    face = remembered.analyzer()(image)[0]
    regions = regions_of(face.landmarks, 512)
    assert {REGIONS[k] for k in np.unique(regions)} == set(REGIONS)
    for name, landmark in (("mouth", 13), ("eyes", 159), ("eyes", 386), ("face", 5), ("face", 50)):
        x, y = face.landmarks[landmark, :2].astype(int)
        assert REGIONS[regions[y, x]] == name
    assert REGIONS[regions[2, 2]] == "outside"


def test_restored_photograph_is_its_own_truth(fixtures):
    image = next(read_video(str(fixtures / "clip.mp4"))).image
    face = remembered.analyzer()(image)[0]
    smile = np.zeros((1, len(face.params.expression)), np.float32)
    smile[0, 25] = 1  # jawOpen
    bank = StagingBank(face.params.light[None], smile)
    example = ExampleComposer(64).staged("restored", face, bank, np.random.default_rng(3))
    assert example is not None
    wanted, own = np.split(example.inputs.code, 2)
    np.testing.assert_array_equal(wanted, face.params.expression)
    assert np.abs(own - wanted).max() > 0.2  # the source was given another expression, and fitted anew
    inside = example.regions >= REGIONS.index("face")
    error = np.abs(example.inputs.preview.astype(int) - example.target)[inside].mean()
    assert 0 < error < 25
    assert example.error > 0
    again = examples_of([cells_of(example)])[0]
    np.testing.assert_array_equal(again.regions, example.regions)
    np.testing.assert_array_equal(again.inputs.geometry, example.inputs.geometry)
    np.testing.assert_array_equal(again.target, example.target)


def test_photograph_of_another_exposure_gets_the_colour_of_the_preview(fixtures):
    image = next(read_video(str(fixtures / "clip.mp4"))).image
    face = remembered.analyzer()(image)[0]
    darker = replace(face, crop=(face.crop * 0.8).astype(np.uint8))
    example = ExampleComposer(64).photographs(face, darker)
    np.testing.assert_allclose(example.target, example.inputs.preview, atol=12)


@pytest.mark.parametrize("yaw", [0.0, 30.0, -30.0])
def test_turned_sources_turn_frontal_heads_aside_and_others_to_the_front(yaw):
    for seed in range(8):
        rotation = turned(params_of(yaw), np.random.default_rng(seed)).head_rotation
        after = to_degrees(to_matrix(rotation[None]))[0, 0]
        assert 15 - 1e-3 <= abs(after - yaw) <= 40 + 1e-3
        assert abs(after) <= max(abs(yaw), 40)


def test_lids_are_moved_to_an_extreme_and_back():
    axes = OpenHead.load().spec.expression_names
    blink = [axes.index("eyeBlinkLeft"), axes.index("eyeBlinkRight")]
    own = np.zeros(len(axes), np.float32)
    closed = [with_other_lids(own, axes, np.random.default_rng(seed)) for seed in range(12)]
    assert all(np.sort(code)[-2] >= 0.6 and (code > 0).sum() == 2 for code in closed)
    own[blink] = 1
    opened = [with_other_lids(own, axes, np.random.default_rng(seed)) for seed in range(12)]
    assert any(not code[blink].any() for code in opened)


@pytest.mark.parametrize("field", ["size", "restored", "held_out_fraction"])
def test_settings_have_ranges(field):
    with pytest.raises(PlanError, match=field.replace("_", "-")):
        ExampleSettings(**{field: -1})
