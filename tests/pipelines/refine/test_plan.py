"""Plan of a refiner's examples."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.examples.frame_index import GATES, read_frames
from pipelines.refine.config import ExampleSettings
from pipelines.refine.plan import feature_weights, named, plan_examples
from rigface.errors import PlanError
from rigface.face.head.open_head import OpenHead
from rigface.storage.store import Store
from tests.pipelines.made_faces import dataset

AXES = OpenHead.load().spec.expression_names
STAGED = {"restored", "turned", "lids"}


def frames_of(folder):
    return read_frames(Store(str(folder)), dict.fromkeys(GATES, 0.0))


def planned(folder, **settings):
    return plan_examples(*frames_of(folder), AXES, ExampleSettings(**settings))


def test_plan_pairs_frames_of_one_track_and_stages_each(tmp_path):
    dataset(tmp_path, people=2, frames=5)  # the last frame of each is an error
    plan = planned(tmp_path, pairs=2)
    assert {p.kind for p in plan} <= {"pair", *STAGED}
    assert len(plan) == 2 * 4 * (1 + 2)
    assert all((p.source_row == p.target_row) == (p.kind in STAGED) for p in plan)
    assert all(p.source_part == p.target_part for p in plan)
    assert len({p.seed for p in plan}) == len(plan)
    assert plan == planned(tmp_path, pairs=2)
    assert plan != planned(tmp_path, pairs=2, seed=1)


def test_single_photographs_are_staged_several_times(tmp_path):
    dataset(tmp_path, people=3, frames=2)
    plan = planned(tmp_path, restored=20)
    assert len(plan) == 60
    assert {p.kind for p in plan} == STAGED


def test_pictures_of_a_person_from_different_inputs_are_paired(tmp_path):
    dataset(tmp_path, people=3, frames=2, identity="same")  # three inputs with one good frame each
    plan = [p for p in planned(tmp_path, restored=0) if p.kind == "photographs"]
    assert {p.person for p in plan} == {"same"}
    assert all(p.source_part != p.target_part for p in plan)
    assert 3 <= len(plan) <= 6  # each of three photographs with one or both of the others
    assert not planned(tmp_path, restored=0, photographs=0)


def test_long_tracks_give_their_share_with_the_rarest_expressions(tmp_path):
    dataset(tmp_path, people=1, frames=13)
    frames, places = frames_of(tmp_path)
    frames.expression[5, AXES.index("eyeBlinkLeft")] = 1
    frames.expression[8, AXES.index("jawOpen")] = 1
    plan = plan_examples(frames, places, AXES, ExampleSettings(max_frames=6, pairs=1))
    rows = {p.target_row for p in plan}
    assert len(rows) == 6
    assert {5, 8} <= rows


def test_partners_differ_in_mouth_and_lids_rather_than_brows(tmp_path):
    dataset(tmp_path, people=1, frames=5)
    frames, places = frames_of(tmp_path)
    frames.expression[:] = 0
    frames.expression[1, AXES.index("browInnerUp")] = 1
    frames.expression[2, AXES.index("eyeBlinkLeft")] = 0.5
    plan = plan_examples(frames, places, AXES, ExampleSettings(pairs=4, restored=0))
    assert {p.source_row for p in plan if p.target_row == 0} == {2}
    assert feature_weights(["jawOpen", "browInnerUp"])[0] == 1


def test_people_are_named_by_tables(tmp_path):
    dataset(tmp_path, people=3, frames=3)
    frames, _ = frames_of(tmp_path)
    table = tmp_path / "people.csv"
    table.write_text("file,person\n/clip0.mp4,anna\n../clip2.mp4,anna\n")
    uris = np.where(frames.uri == "/clip2.mp4", str(tmp_path.parent / "clip2.mp4"), frames.uri)
    renamed = named(replace(frames, uri=uris), [str(table)])
    assert list(dict.fromkeys(renamed.identity)) == ["anna", "p1"]


def test_input_with_several_faces_keeps_its_identities(tmp_path):
    dataset(tmp_path, people=2, frames=3)
    frames, _ = frames_of(tmp_path)
    frames = replace(frames, track=np.where(np.arange(len(frames)) == 0, 1, frames.track))
    table = tmp_path / "people.csv"
    table.write_text("file,person\n/clip0.mp4,group\n/clip1.mp4,anna\n")
    assert set(named(frames, [str(table)]).identity) == {"p0", "anna"}


@pytest.mark.parametrize("content", ["file,name\na.jpg,anna\n", "file,person\nelsewhere.jpg,anna\n"])
def test_tables_that_name_nobody_are_refused(tmp_path, content):
    dataset(tmp_path, people=1, frames=2)
    table = tmp_path / "people.csv"
    table.write_text(content)
    with pytest.raises(PlanError, match="--people"):
        named(frames_of(tmp_path)[0], [str(table)])
