"""The stages one by one, without Ray: what they add, what they do with a bad face, a bad file and a crash."""

import ctypes
import json
import os
from collections import deque
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.extract import plan
from pipelines.extract.config import debug
from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.job import BREAKER, _break
from pipelines.extract.layout import error_path, part_path, record_of
from pipelines.extract.stages import DetectFaces, MaskAndScore, Reconstruct, StageActor, Write
from pipelines.extract.unit import CROPS_KEPT, Crops, Unit, new_record
from pipelines.telemetry.worker_process import WorkerProcess
from rigface import schema
from rigface.errors import BadInput, JobBroken, PlanError
from rigface.image import encode_jpeg
from rigface.testing import fakes

SETTINGS = replace(debug().settings, chunk_frames=100)


def planned(path, index=0, settings=SETTINGS):
    """The unit that a file's plan leads to."""
    one = plan.Surveyor(settings)(str(path), lambda step: None)
    assert one["status"] == "ok", one
    name, what = list(plan.units_of(one, "config"))[index]
    return Unit(name, what, new_record(name, what))


def looked(path):
    unit = planned(path)
    record, blob = FrameProcessor(SETTINGS)((unit.plan, unit.record), lambda step: None)
    unit.record = record
    unit.set_faces(blob)
    return unit


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return fakes.video(tmp_path_factory.mktemp("clip") / "clip.mp4", (0.0, 0.5), frames=10)


@pytest.fixture
def unit(clip):
    return looked(clip)


class CrashesOn:
    """A looker that dies on one file and answers to the others."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, job, begin):
        what, record = job
        begin("decode")
        if what["uri"].endswith(self.name):
            ctypes.string_at(0)
        return {**record, "frames": 1}, None


def crashing_look(out, name: str = "poison.mp4"):
    look = DetectFaces(SETTINGS, silence_s=5, out=str(out))
    look._child.close()
    look._child = WorkerProcess("test_stages:CrashesOn", {"name": name}, silence_s=5)
    return look


def test_looking_says_what_it_saw(unit):
    record = unit.record
    assert (record["status"], record["frames"], record["faces"], record["tracks"]) == ("ok", 10, 20, 2)
    assert (record["width"], record["height"], record["last_frame"]) == (128, 96, 9)
    assert set(record["seconds"]) == {"decode", "detect", "track", "align", "identity"}
    assert unit["frame_index"].to_pylist() == [i // 2 for i in range(20)]
    assert len(unit["crop"]) - unit["identity_vector"].null_count == 4  # two for each track


def test_landmarks_are_in_the_crop_and_boxes_in_the_frame(unit):
    rows = unit.good
    landmarks = unit.numbers("landmarks", rows).reshape(len(rows), -1, 3)
    assert landmarks[..., :2].min() > 0
    assert landmarks[..., :2].max() < 512
    affine = unit.numbers("frame_to_crop", rows).reshape(-1, 2, 3)
    box = unit.numbers("box", rows)
    corner = np.einsum("nij,nj->ni", affine[:, :, :2], box[:, :2]) + affine[:, :, 2]
    assert (np.abs(corner - landmarks[..., :2].min(1)) < 8).all()


def test_what_is_cut_short_is_partial_with_the_good_frames(clip, tmp_path):
    cut = tmp_path / "cut.mp4"
    data = clip.read_bytes()
    moov, mdat = data.index(b"moov"), data.index(b"mdat")
    assert mdat < moov  # so that cutting needs care: spoil the second half of the pictures instead
    middle = mdat + (moov - mdat) // 2
    cut.write_bytes(data[:middle] + b"\xff" * (moov - middle - 8) + data[moov - 8 :])
    unit = looked(cut)
    assert unit.record["status"] == "partial"
    assert unit.record["stage"] == "decode"
    assert 0 < unit.record["frames"] < 10
    assert len(unit.faces) == unit.record["faces"] > 0


def test_a_missing_file_is_an_error_that_may_pass(clip, tmp_path):
    unit = planned(clip)
    unit.plan["uri"] = str(tmp_path / "gone.mp4")
    record, blob = FrameProcessor(SETTINGS)((unit.plan, unit.record), lambda step: None)
    assert (record["status"], record["reason"], record["crash"], blob) == ("error", "no such file", "CannotRead", None)


def test_a_crash_is_the_files_after_two_tries_and_costs_nobody_else(clip, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    poison = tmp_path / "poison.mp4"
    poison.write_bytes(clip.read_bytes())
    look = crashing_look(tmp_path / "out")
    bad, good = planned(poison), planned(clip)
    look(bad)
    look(good)
    look._child.close()
    assert (bad.record["status"], bad.record["stage"], bad.record["crash"]) == ("error", "decode", "SIGSEGV")
    assert bad.record["reason"] == "decode crashed 2 times on it: SIGSEGV"
    assert not bad.has_faces
    assert (good.record["status"], good.record["frames"]) == ("ok", 1)


def test_a_film_that_took_two_units_down_is_not_tried_again_anywhere_until_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    film = fakes.video(tmp_path / "poison.mp4", (0.0,), frames=40)
    in_pieces = replace(SETTINGS, chunk_frames=8)
    here, there = (crashing_look(tmp_path / "out") for _ in range(2))  # two actors, on two nodes say
    units = [planned(film, index, in_pieces) for index in range(5)]
    for look, one in zip((here, there, here, there), units):
        look(one)
    reasons = [one.record["reason"] for one in units[:4]]
    assert reasons[:2] == ["decode crashed 2 times on it: SIGSEGV"] * 2
    assert reasons[2:] == [f"not tried, because of other parts of it: {reasons[0]}"] * 2
    assert {(u.record["status"], u.record["stage"], u.record["crash"]) for u in units[:4]} == {
        ("error", "decode", "SIGSEGV")
    }
    again = planned(film, 0, in_pieces)  # the run was killed, and comes to the first again: one other is not enough
    here(again)
    assert again.record["reason"] == reasons[0]
    here._deaths.forget(str(film))
    there(units[4])
    assert units[4].record["reason"] == reasons[0]
    for look in (here, there):
        look._child.close()


def test_numbers_that_are_not_finite_fail_their_face_only(unit):
    stage = Reconstruct(SETTINGS, "cpu")
    real = stage._reconstructor

    def spoilt(*arguments):
        fit = real(*arguments)
        fit.params.shape[3] = np.nan
        return fit

    stage._reconstructor = spoilt
    spoilt.head_spec = real.head_spec
    stage(unit)
    assert unit["status"].to_pylist() == ["ok"] * 3 + ["error"] + ["ok"] * 16
    assert unit["reason"][3].as_py() == "reconstruct: its coefficients are not finite"
    assert [v is None for v in unit["shape"].to_pylist()] == [i == 3 for i in range(20)]
    MaskAndScore(SETTINGS)(unit)
    assert [v is None for v in unit["mask"].to_pylist()] == [i == 3 for i in range(20)]
    assert [v is None for v in unit["confidence"].to_pylist()] == [i == 3 for i in range(20)]


def test_a_face_that_cannot_be_judged_is_marked(unit):
    Reconstruct(SETTINGS, "cpu")(unit)
    stage = MaskAndScore(SETTINGS)
    real, calls = stage._assess, []

    def refuses(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise BadInput("too strange")
        return real(*arguments)

    stage._assess = refuses
    stage(unit)
    assert unit["reason"].to_pylist() == [None] * 4 + ["finish: too strange"] + [None] * 15
    assert unit["mask"].null_count == unit["sharpness"].null_count == 1


def test_bugs_are_not_swallowed(unit):
    stage = Reconstruct(SETTINGS, "cpu")
    stage._reconstructor = lambda *arguments: {}["typo"]
    with pytest.raises(KeyError):
        stage(unit)


def test_written_parts_are_the_contract(unit, tmp_path):
    for stage in (
        Reconstruct(SETTINGS, "cpu"),
        MaskAndScore(SETTINGS),
        Write(str(tmp_path), fakes.HEAD, fakes.DETECTOR),
    ):
        stage(unit)
    path = tmp_path / part_path(unit.unit_id)
    part = pq.read_table(path)
    assert part.schema.remove_metadata().equals(schema.faces_schema(fakes.HEAD, fakes.DETECTOR).remove_metadata())
    assert set(part["uri"].to_pylist()) == {unit.plan["uri"]}
    assert record_of(part.schema)["faces"] == 20
    assert unit.record["bytes"] == path.stat().st_size
    assert not unit.has_faces  # the driver gets a record, not the pictures


def test_the_first_commit_of_a_unit_wins(unit, tmp_path):
    write = Write(str(tmp_path), fakes.HEAD, fakes.DETECTOR)
    twin = Unit(unit.unit_id, unit.plan, {**unit.record, "tracks": 99}, unit._blob)
    write(unit)
    write(twin)
    assert record_of(pq.read_schema(tmp_path / part_path(unit.unit_id)))["tracks"] == 2


def test_nobody_to_be_seen_leaves_a_record(tmp_path):
    unit = looked(fakes.video(tmp_path / "nobody.mp4", (), frames=4))
    assert not unit.has_faces
    Write(str(tmp_path), fakes.HEAD, fakes.DETECTOR)(unit)
    kept = json.loads((tmp_path / error_path(unit.unit_id)).read_text())
    assert (kept["status"], kept["frames"], kept["faces"]) == ("ok", 4, 0)
    assert not (tmp_path / "faces").exists()


def test_one_actor_can_run_several_stages(clip, unit, tmp_path):
    makers = [
        (Reconstruct, {"settings": SETTINGS, "device": "cpu"}),
        (MaskAndScore, {"settings": SETTINGS}),
        (Write, {"out": str(tmp_path), "head": fakes.HEAD, "detector": fakes.DETECTOR}),
    ]
    row = StageActor(makers)(unit.pack())
    done = Unit.unpack(row)
    assert set(done.record["seconds"]) >= {"decode", "reconstruct", "parse", "quality", "write"}
    assert not done.has_faces
    assert (tmp_path / part_path(unit.unit_id)).exists()


def test_units_travel_whole_and_uncopied(unit):
    row = unit.pack()
    there = Unit.unpack(row)
    assert there.plan == unit.plan
    assert there.record == unit.record
    again = there.pack()
    assert [b.address for b in again["faces"].chunk(0).buffers()[2:]] == [
        b.address for b in row["faces"].chunk(0).buffers()[2:]
    ]
    assert there.faces.equals(unit.faces)


def test_crops_are_decoded_once_and_memory_is_bounded():
    cells = pa.array([encode_jpeg(np.full((512, 512, 3), i, np.uint8)) for i in range(3)])
    kept: dict = {}
    crops = Crops(cells, np.array([2, 0]), kept)
    assert [int(c[0, 0, 0]) for c in crops] == [2, 0]
    assert crops[0] is kept[2] is Crops(cells, np.array([0, 1, 2]), kept)[2]
    assert CROPS_KEPT * 512 * 512 * 3 < 300e6


def test_stages_that_do_not_fit_are_refused_before_anything_runs():
    columns = {c.name for c in schema.face_columns(fakes.HEAD, fakes.DETECTOR)}
    plan.check([DetectFaces, Reconstruct, MaskAndScore, Write], (), columns)
    with pytest.raises(PlanError, match=r"finish needs .*'head_rotation'.*before it there are"):
        plan.check([DetectFaces, MaskAndScore, Write], (), columns)
    with pytest.raises(PlanError, match=r"no stage adds \['mask'"):
        plan.check([DetectFaces, Reconstruct, Write], (), {"mask"})


def test_many_crashes_of_one_kind_stop_the_job():
    crashes = deque([None] * 19 + ["SIGSEGV"] * 20, maxlen=BREAKER)
    _break(crashes)  # the window is not full
    crashes.append("SIGSEGV")
    with pytest.raises(JobBroken, match="21 of the last 40 units crashed with SIGSEGV"):
        _break(crashes)
    _break(deque([None] * BREAKER, maxlen=BREAKER))  # bad inputs alone never stop it


def test_unit_names_depend_on_everything_that_decides_the_rows(clip):
    one = plan.Surveyor(SETTINGS)(str(clip), lambda step: None)
    name = plan.unit_id(one, 0, "config")
    assert name == plan.unit_id(dict(one), 0, "config")
    assert len(name) == 24
    others = [
        plan.unit_id({**one, "uri": "/elsewhere.mp4"}, 0, "config"),
        plan.unit_id({**one, "sha256": "0"}, 0, "config"),
        plan.unit_id({**one, "chunks": [{**one["chunks"][0], "start_slot": 1}]}, 0, "config"),
        plan.unit_id(one, 0, "other config"),
    ]
    assert len({name, *others}) == 5


@pytest.mark.slow
def test_specs_known_without_loading_are_those_of_what_is_loaded():
    from pipelines.extract import components
    from pipelines.extract.config import Settings

    assert components.specs(Settings()) == components.Specs(Settings())(None, lambda step: None)
