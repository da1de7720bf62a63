"""Examples of a refiner: their plan, and what they show."""

import numpy as np
import pytest

from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.pair_plan import StagingBank
from pipelines.refine.config import ExampleSettings
from pipelines.refine.examples import ExampleComposer, cells_of, examples_of, plan_examples
from rigface.errors import PlanError
from rigface.face.analyzer import FaceAnalyzer
from rigface.refiner.regions import REGIONS, regions_of
from rigface.storage.store import Store
from rigface.video.decode import read_frames as read_video
from tests.pipelines.made_faces import dataset


def planned(folder, **settings):
    frames, places = read_frames(Store(str(folder)), dict.fromkeys(GATES, 0.0))
    return plan_examples(frames, places, ExampleSettings(**settings))


def test_plan_pairs_frames_of_one_track_and_restores_each(tmp_path):
    dataset(tmp_path, people=2, frames=5)  # the last frame of each is an error
    plan = planned(tmp_path, pairs=2)
    assert {p.kind for p in plan} == {"pair", "restored"}
    assert len(plan) == 2 * 4 * (1 + 2)
    assert all((p.source_row == p.target_row) == (p.kind == "restored") for p in plan)
    assert all(p.source_part == p.target_part for p in plan)
    assert len({p.seed for p in plan}) == len(plan)
    assert plan == planned(tmp_path, pairs=2)
    assert plan != planned(tmp_path, pairs=2, seed=1)


def test_single_photographs_are_restored_several_times(tmp_path):
    dataset(tmp_path, people=3, frames=2)
    plan = planned(tmp_path, restored=3)
    assert [p.kind for p in plan] == ["restored"] * 9


def test_long_tracks_give_no_more_than_their_share(tmp_path):
    dataset(tmp_path, people=1, frames=9)
    rows = {p.target_row for p in planned(tmp_path, max_frames=3, pairs=1)}
    assert rows == {0, 3, 7}


def test_regions_are_nested_from_the_outside_to_the_mouth(fixtures):
    image = next(read_video(str(fixtures / "clip.mp4"))).image
    face = FaceAnalyzer.load()(image)[0]
    regions = regions_of(face.landmarks, 512)
    assert {REGIONS[k] for k in np.unique(regions)} == set(REGIONS)
    for name, landmark in (("mouth", 13), ("eyes", 159), ("eyes", 386), ("face", 5), ("face", 50)):
        x, y = face.landmarks[landmark, :2].astype(int)
        assert REGIONS[regions[y, x]] == name
    assert REGIONS[regions[2, 2]] == "outside"


def test_restored_photograph_is_its_own_truth(fixtures):
    image = next(read_video(str(fixtures / "clip.mp4"))).image
    face = FaceAnalyzer.load()(image)[0]
    smile = np.zeros((1, len(face.params.expression)), np.float32)
    smile[0, 25] = 1  # jawOpen
    bank = StagingBank(face.params.light[None], smile)
    example = ExampleComposer(64).restored(face, bank, np.random.default_rng(3))
    assert example is not None
    wanted, own = np.split(example.inputs.code, 2)
    np.testing.assert_array_equal(wanted, face.params.expression)
    assert np.abs(own - wanted).max() > 0.2  # the source was given another expression, and fitted anew
    inside = example.regions >= REGIONS.index("face")
    error = np.abs(example.inputs.preview.astype(int) - example.target)[inside].mean()
    assert 0 < error < 25
    again = examples_of([cells_of(example)])[0]
    np.testing.assert_array_equal(again.regions, example.regions)
    np.testing.assert_array_equal(again.inputs.geometry, example.inputs.geometry)
    np.testing.assert_array_equal(again.target, example.target)


@pytest.mark.parametrize("field", ["size", "restored", "held_out_fraction"])
def test_settings_have_ranges(field):
    with pytest.raises(PlanError, match=field.replace("_", "-")):
        ExampleSettings(**{field: -1})
