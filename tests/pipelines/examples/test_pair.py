"""Pairing: even sampling, aligned composition, split by person, resume."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.examples import pair_sampling
from pipelines.examples.config import PairConfig, PairSettings
from pipelines.examples.pair import pair
from pipelines.examples.pair_plan import MIXED_PARTS, PlannedExample, mixed, parts_behind
from pipelines.examples.pair_sampling import Candidates, Chooser, Frames, candidates, coverage
from pipelines.examples.split import split_of
from rigface.conditions import Composer
from rigface.errors import PlanError
from rigface.examples import ExampleSpec, examples_of, mirrored_expression, regions_of
from rigface.face.controls.transfer import exposure
from rigface.face.geometry.rotation import from_degrees
from rigface.face.head.open_head import OpenHead
from rigface.profile import ConditionSpec
from rigface.types import CROP_PX
from tests.pipelines.made_faces import dataset, face_at, params_of, scene

SMALL = PairSettings(
    size=64, pairs=20, relit=10, unit_size=8, min_overlap=0.5, max_background_change=1.0, held_out_fraction=0.3,
    identity="dlib",
)  # fmt: skip


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    dataset(folder / "in")
    report = pair(PairConfig(str(folder / "in"), str(folder / "out"), SMALL), lambda words: None)
    return folder, report


def rows_of(folder) -> pa.Table:
    parts = sorted((folder / "out" / "examples").glob("*/*.parquet"))
    return pa.concat_tables([pq.read_table(p) for p in parts]).combine_chunks()


def frames_of(groups: list[tuple[str, str, int]], yaws: np.ndarray) -> Frames:
    names = [(person, uri) for person, uri, count in groups for _ in range(count)]
    count = len(names)
    return Frames(
        identity=np.array([n[0] for n in names]),
        uri=np.array([n[1] for n in names]),
        track=np.zeros(count, int),
        index=np.arange(count),
        rotation=from_degrees(np.stack([yaws, 0 * yaws, 0 * yaws], 1).astype(np.float32)),
        expression=np.zeros((count, 4)),
        light=np.ones((count, 9, 3)),
        zoom=np.ones(count),
        good=np.ones(count, bool),
        vectors=np.full((count, 3), np.nan),
    )


def test_pairs_stay_within_a_person_and_an_input():
    frames = frames_of([("a", "1", 4), ("a", "2", 4), ("b", "1", 4)], np.linspace(0, 50, 12))
    found, _ = candidates(frames, 1000, 0.6, seed=0)
    assert len(found) == 3 * 4 * 3
    assert (found.source != found.target).all()
    assert (frames.identity[found.source] == frames.identity[found.target]).all()
    assert (frames.uri[found.source] == frames.uri[found.target]).all()


def test_pairs_of_distant_identity_vectors_are_refused():
    frames = frames_of([("a", "1", 4)], np.zeros(4))
    vectors = np.zeros((4, 3))
    vectors[2:] = (1.0, 0, 0)
    found, refused = candidates(replace(frames, vectors=vectors), 100, 0.6, seed=0)
    assert len(found) == 4
    assert refused["pair of two people by their vectors"] == 8


def test_identity_distance_follows_the_network():
    frames = frames_of([("a", "1", 2)], np.zeros(2))
    for width, rule in ((128, 0.6), (512, 1.1)):
        for apart, count in ((rule - 0.05, 2), (rule + 0.05, 0)):
            vectors = np.zeros((2, width))
            vectors[1, 0] = apart
            assert len(candidates(replace(frames, vectors=vectors), 100, 0, seed=0)[0]) == count


def pairs_of(pose: np.ndarray, person: np.ndarray) -> Candidates:
    """Pairs with these turns, of these people; rows are numbered."""
    rows, zero = np.arange(len(pose)), np.zeros(len(pose))
    draw = np.random.default_rng(5).random(len(pose))
    return Candidates(rows, rows, person, draw, {"pose": pose, "expression": zero, "light": zero})


def chosen(wanted: int, *several: Candidates) -> Candidates:
    chooser = Chooser(wanted)
    for pairs in several:
        chooser.add(pairs)
    return chooser.chosen()


def test_rare_turns_are_taken_whole_and_common_ones_share_the_rest():
    pose = np.concatenate([np.full(1000, 1.0), np.full(10, 25.0), np.full(5, 50.0)])
    taken = chosen(40, pairs_of(pose, np.zeros(1015, int)))
    assert coverage(taken)["pose"] == [25, 0, 0, 10, 5]


def test_people_take_turns_within_a_cell():
    taken = chosen(100, pairs_of(np.zeros(1000), np.array([0] * 900 + [1] * 100)))
    assert np.bincount(taken.person).tolist() == [50, 50]


@pytest.mark.parametrize("wanted", [0, 7, 60, 1000])
def test_choice_from_a_stream_is_that_from_all_pairs_at_once(monkeypatch, wanted):
    random = np.random.default_rng(wanted)
    pairs = pairs_of(
        random.choice([1.0, 6, 15, 25, 50], 500, p=[0.7, 0.2, 0.06, 0.03, 0.01]), random.integers(0, 9, 500)
    )
    whole = chosen(wanted, pairs)
    monkeypatch.setattr(pair_sampling, "SLACK", 20)
    parts = [pairs.take(rows) for rows in np.array_split(random.permutation(500), 30)]
    assert np.array_equal(chosen(wanted, *parts).source, whole.source)
    assert len(whole) == min(wanted, 500)


def test_a_chooser_holds_about_as_many_pairs_as_are_wanted(monkeypatch):
    monkeypatch.setattr(pair_sampling, "SLACK", 50)
    chooser = Chooser(30)
    for pose in np.random.default_rng(0).choice([1.0, 6, 15, 25, 50], (100, 40)):
        chooser.add(pairs_of(pose, np.zeros(40, int)))
        assert sum(map(len, chooser._held)) <= 30 + 5 + 50 + 40


def test_neighbours_of_a_plan_are_of_many_people_and_a_unit_reads_few_objects():
    """Ninety clips of forty examples each, in objects of faces/ with three clips, in units of 64."""
    planned = [
        PlannedExample(
            f"{n:04}", f"p{n // 40}", "train", False, False, False, None, f"{n // 120:03}", 0, f"{n // 120:03}", 1
        )
        for n in range(3600)
    ]
    order = mixed(planned, seed=1)
    assert sorted(p.example for p in order) == [p.example for p in planned]
    units = [order[first : first + 64] for first in range(0, 3600, 64)]
    assert min(len({p.identity for p in unit}) for unit in units[:-1]) > 20
    assert max(len(parts_behind(unit)) for unit in units) <= 2 * MIXED_PARTS  # a unit may lie in two groups
    assert mixed(planned, seed=1) == order != mixed(planned, seed=2)


def test_candidates_depend_on_the_seed_only():
    frames = frames_of([("a", "1", 30)], np.linspace(0, 60, 30))
    found, again, other = (candidates(frames, 200, 0.6, seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(found.source, again.source)
    assert np.array_equal(found.draw, again.draw)
    assert not np.array_equal(found.source, other.source)


def test_split_is_by_person_and_a_larger_share_contains_the_smaller():
    names = [f"p{i:06}" for i in range(2000)]
    small = {n for n in names if split_of(n, 0.1) == "test"}
    large = {n for n in names if split_of(n, 0.3) == "test"}
    assert 150 < len(small) < 250
    assert small < large


def test_target_is_laid_over_the_source_so_that_the_background_fits():
    from pipelines.examples.compose_example import compose, lay_over

    frame = scene()
    source = face_at(frame, (300, 200, 420, 350), params_of(0))
    target = face_at(frame, (330, 215, 455, 370), params_of(10))
    picture, _, there = lay_over(source, target)
    apart = np.abs(picture.astype(int) - source.crop)[there]
    assert there.mean() > 0.6
    assert np.median(apart) <= 2
    made = compose(source, target, Composer(ConditionSpec("texture", 64)), OpenHead.load().spec)
    assert made.background_change < 0.02
    assert made.target.shape == (64, 64, 3)


def test_camera_moves_with_the_crop():
    from pipelines.examples.compose_example import between, moved

    source = face_at(scene(), (300, 200, 420, 350), params_of(0))
    target = face_at(scene(), (340, 190, 480, 365), params_of(0, scale=5.0))
    point = np.array([0.03, -0.02])

    def px(camera):  # a head point's place in a crop
        unit = camera[0] * (point + camera[1:])
        return (unit * (1, -1) + 1) * CROP_PX / 2

    there = between(source, target)
    wanted = there[:, :2] @ px(target.params.camera) + there[:, 2]
    assert np.allclose(px(moved(source, target)), wanted, atol=1e-2)


def test_invented_light_keeps_the_exposure_near():
    from pipelines.examples.compose_example import invent_light

    random = np.random.default_rng(0)
    own = params_of(0).light
    others = random.uniform(0.1, 1, (5, 9, 3)).astype(np.float32)
    ratios = [exposure(invent_light(own, others, random)) / exposure(own) for _ in range(40)]
    assert min(ratios) > 0.5
    assert max(ratios) < 1.7
    assert len({round(r, 3) for r in ratios}) > 20


def test_mirror_exchanges_left_and_right_and_twice_is_nothing():
    names = OpenHead.load().spec.expression_names
    order = mirrored_expression(names)
    assert names[order[names.index("eyeBlinkLeft")]] == "eyeBlinkRight"
    assert order[names.index("jawOpen")] == names.index("jawOpen")
    assert np.array_equal(order[order], np.arange(len(names)))
    with pytest.raises(ValueError, match="no twin"):
        mirrored_expression(("eyeBlinkLeft",))


def test_examples_are_complete_and_counted_in_the_report(paired):
    folder, report = paired
    rows = rows_of(folder)
    example = examples_of(rows)
    assert example.target.shape == (len(rows), 64, 64, 3)
    assert example.conditions.expression_code.shape == (
        len(rows),
        52,
    )
    assert report.made["rows"] == len(rows) > 10
    assert set(rows["kind"].to_pylist()) == {"pair", "relit", "posed"}
    assert ExampleSpec.of(rows.schema).style == "texture"
    by_split = {
        s: {i for i, t in zip(rows["identity"].to_pylist(), rows["split"].to_pylist()) if t == s}
        for s in ("train", "test")
    }
    assert not by_split["train"] & by_split["test"]
    assert by_split["train"]
    assert sum(report.chosen["pose"]) == report.pairs
    assert "error" not in rows["source_uri"].to_pylist()
    assert 5 not in rows["source_frame_index"].to_pylist()
    vectors = example.conditions.identity
    assert vectors.shape == (len(rows), 128)
    assert ((np.linalg.norm(vectors, axis=1) > 1) & (np.linalg.norm(vectors, axis=1) < 2)).all()  # as dlib's are


def test_mirrored_rows_are_mirrored_in_pictures_and_numbers(tmp_path):
    dataset(tmp_path / "in", people=1, frames=3)
    made = {}
    for share in (0.0, 1.0):
        settings = replace(SMALL, mirrored_fraction=share, relit=0, relit_pair_fraction=0.0)
        pair(PairConfig(str(tmp_path / "in"), str(tmp_path / f"out{share}"), settings), lambda words: None)
        part = next((tmp_path / f"out{share}" / "examples").glob("*/*.parquet"))
        made[share] = pq.read_table(part)
    straight, mirror = examples_of(made[0.0]), examples_of(made[1.0])
    assert np.array_equal(straight.target, mirror.target[:, :, ::-1])
    regions = [regions_of(made[share]) for share in (0.0, 1.0)]
    assert np.array_equal(regions[0], regions[1][:, :, ::-1])
    assert {0, 2, 4} <= set(np.unique(regions[0])) <= set(range(5))
    assert np.allclose(made[0.0]["delta_yaw_deg"].to_numpy(), -made[1.0]["delta_yaw_deg"].to_numpy())
    names = OpenHead.load().spec.expression_names
    left, right = names.index("mouthSmileLeft"), names.index("mouthSmileRight")
    assert np.array_equal(straight.conditions.expression_code[:, left], mirror.conditions.expression_code[:, right])


def test_rerun_makes_missing_units_only(paired):
    folder, _ = paired
    parts = sorted((folder / "out" / "examples").glob("*/*.parquet"))
    before = {p: p.read_bytes() for p in parts}
    parts[0].unlink()
    pair(PairConfig(str(folder / "in"), str(folder / "out"), SMALL), lambda words: None)
    after = {p: p.read_bytes() for p in sorted((folder / "out" / "examples").glob("*/*.parquet"))}
    assert set(after) == set(before)
    assert all(pq.read_table(p).equals(pq.read_table(pa.BufferReader(before[p]))) for p in parts)
    assert json.loads((folder / "out" / "report.json").read_text())["made"]["rows"] == len(rows_of(folder))


def test_other_settings_are_refused(paired):
    folder, _ = paired
    with pytest.raises(PlanError, match=r"other settings .*size"):
        pair(PairConfig(str(folder / "in"), str(folder / "out"), replace(SMALL, size=32)), lambda words: None)


def files(folder) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".rigface" not in p.parts}


def test_overwrite_keeps_folders_that_are_no_output_of_pair(paired, tmp_path):
    folder, _ = paired
    (tmp_path / "own" / "examples").mkdir(parents=True)
    (tmp_path / "own" / "examples" / "notes.txt").write_text("mine")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "rigface.json").write_text('{"config": "", "detector": {}, "runs": []}')
    before = files(tmp_path)
    for name, reason in (("own", "no rigface.json"), ("dataset", "an output of `extract`")):
        with pytest.raises(PlanError, match=reason):
            pair(PairConfig(str(folder / "in"), str(tmp_path / name), SMALL, overwrite=True), lambda words: None)
    assert files(tmp_path) == before


def test_overwrite_keeps_an_output_until_the_new_plan_is_made(paired, tmp_path):
    folder, _ = paired
    before = files(folder / "out")
    impossible = replace(SMALL, min_face_px=1e6)
    for faces, settings in ((tmp_path, SMALL), (folder / "in", impossible)):
        with pytest.raises(PlanError):
            pair(PairConfig(str(faces), str(folder / "out"), settings, overwrite=True), lambda words: None)
    assert files(folder / "out") == before


def test_overwrite_replaces_plan_and_examples(tmp_path):
    dataset(tmp_path / "in", people=1, frames=3)
    for pairs in (4, 1):
        settings = replace(SMALL, pairs=pairs, relit=0)
        report = pair(
            PairConfig(str(tmp_path / "in"), str(tmp_path / "out"), settings, overwrite=True), lambda words: None
        )
    assert report.made["rows"] == len(rows_of(tmp_path)) == 1
    assert json.loads((tmp_path / "out" / "rigface.json").read_text())["settings"]["pairs"] == 1


def test_plan_of_other_faces_is_refused(paired, tmp_path):
    folder, _ = paired
    dataset(tmp_path / "other", people=1)
    with pytest.raises(PlanError, match="was planned from faces of"):
        pair(PairConfig(str(tmp_path / "other"), str(folder / "out"), SMALL), lambda words: None)


def test_missing_faces_are_refused(tmp_path):
    with pytest.raises(PlanError, match="no faces"):
        pair(PairConfig(str(tmp_path), str(tmp_path / "out"), SMALL), lambda words: None)


def test_bins_have_names():
    assert pair_sampling.bin_names("pose")[0] == "< 4"
    assert len(pair_sampling.bin_names("light")) == len(pair_sampling.EDGES["light"]) + 1


def test_invented_pose_turns_a_little_and_keeps_identity():
    from pipelines.examples.compose_example import MAX_DEG, invent_pose
    from rigface.face.geometry.rotation import to_degrees, to_matrix

    random = np.random.default_rng(0)
    own = params_of(25)
    others = random.uniform(0, 1, (6, len(own.expression))).astype(np.float32)
    made = [invent_pose(own, others, random) for _ in range(40)]
    turns = np.array([to_degrees(to_matrix(m.head_rotation[None]))[0] for m in made])
    assert turns[:, 0].std() > 5
    assert (np.abs(turns) < np.array(MAX_DEG) + 1e-3).all()
    changed = [not np.array_equal(m.expression, own.expression) for m in made]
    assert 0.4 < np.mean(changed) < 0.9
    for name in ("shape", "albedo", "light", "camera"):
        assert all(np.array_equal(getattr(m, name), getattr(own, name)) for m in made)


def test_target_of_a_posed_example_is_the_photograph(paired):
    rows = rows_of(paired[0])
    posed = rows.filter(pc.equal(rows["kind"], "posed"))
    example = examples_of(posed)
    assert (posed["delta_pose_deg"].to_numpy() > 1).mean() > 0.7
    apart = np.abs(example.conditions.reference.astype(int) - example.target).mean((1, 2, 3))
    assert (apart > 1).all()
    assert np.array_equal(posed["source_frame_index"].to_numpy(), posed["target_frame_index"].to_numpy())
