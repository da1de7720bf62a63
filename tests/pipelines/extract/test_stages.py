"""The stages one by one, without Ray: their columns, bad faces, bad files and crashes."""

import ctypes
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.extract import frame_processor, layout, stages, survey
from pipelines.extract.config import debug
from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.layout import error_path, part_path, records_of
from pipelines.extract.plan import UnitPlan, units_of, with_shards
from pipelines.extract.quarantine import MAX_ATTEMPTS, Quarantine
from pipelines.extract.stages import DetectFaces, MaskAndScore, Reconstruct, StageActor, Write
from pipelines.extract.survey import Surveyor
from pipelines.extract.unit import MAX_CACHED_CROPS, Crops, Record, Shard, Unit, records_of_json
from pipelines.inputs.open_input import handed
from pipelines.telemetry.worker_process import WorkerDied, WorkerProcess
from rigface import schema
from rigface.confinement import missing_parts
from rigface.errors import BadInput, PlanError
from rigface.image import encode_jpeg
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.drills.poison import NoChild

SETTINGS = replace(debug().settings, chunk_frames=100)


def planned(path, index=0, settings=SETTINGS):
    """A unit of a file, as the survey plans it."""
    plan = Surveyor(settings)(str(path), lambda step: None)
    assert plan.status == "ok", plan
    return Unit(list(units_of(*with_shards([plan], "config", 1), "config"))[index])


def processed(plan):
    """A unit after the frame processor."""
    record, blob = FrameProcessor(SETTINGS)(plan, lambda step: None)
    return Unit(plan, record, blob)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return fakes.video(tmp_path_factory.mktemp("clip") / "clip.mp4", (0.0, 0.5), frames=10)


@pytest.fixture
def unit(clip):
    return processed(planned(clip).plan)


class CrashesOn:
    """A frame processor that crashes on one file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, plan, begin, file):
        begin("decode")
        if plan.uri.endswith(self.name):
            ctypes.string_at(0)
        return replace(Record.of(plan), frames=1), None


class CrashingDetectFaces(DetectFaces):
    """`DetectFaces` with another child."""

    def __init__(self, child: WorkerProcess | NoChild, out) -> None:
        self._crashing = child
        super().__init__(SETTINGS, silence_s=5, out=str(out))

    def _child(self, remote: bool) -> WorkerProcess | NoChild:
        return self._crashing


class TakesActorsDown:
    """A `DetectFaces` that one of its units takes down, with its actor."""

    name = DetectFaces.name

    def __call__(self, unit):
        if unit.plan.uri == "/b.mp4":
            raise SystemExit


def test_unit_that_takes_its_actor_down_ends_as_a_row_and_its_neighbours_do_not(tmp_path):
    """The first attempt is at a whole shard; then the units are counted one by one."""
    plans = [UnitPlan(f"unit {k}", f"/{k}.mp4", 0, 1, None, 1, "shard") for k in "abc"]
    for _ in range(1 + MAX_ATTEMPTS):
        with pytest.raises(SystemExit):
            StageActor([(TakesActorsDown, {})], str(tmp_path)).run(Shard([Unit(plan) for plan in plans]))
    shard = Shard([Unit(plan) for plan in plans])
    write = {"out": str(tmp_path), "head": fakes.HEAD, "detector": fakes.DETECTOR}
    StageActor([(TakesActorsDown, {}), (Write, write)], str(tmp_path)).run(shard)
    record = shard.records[1]
    assert [r.status for r in shard.records] == ["ok", "error", "ok"]
    assert (record.stage, record.crash) == ("detect_faces", "lost actor")
    assert record.reason.startswith("10 attempts at it ended with their process or node")
    quarantine = Quarantine(Store(str(tmp_path)))
    assert not quarantine.begin("shard")  # a commit ends the counts
    assert quarantine.attempt(plans[1], "detect_faces") is None


def test_memory_that_runs_out_becomes_a_row(tmp_path, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(frame_processor, "decode", exhausted)
    (tmp_path / "a.jpg").write_bytes(b"")
    record, faces = FrameProcessor(SETTINGS)(
        UnitPlan("unit", str(tmp_path / "a.jpg"), 0, 1, None, 1), lambda step: None
    )
    assert (record.status, record.crash, faces) == ("error", "MemoryError", None)
    assert record.reason == "it needs more than 4 GB of memory"


def test_header_that_takes_all_memory_becomes_a_row(clip, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(survey.decode, "plan_chunks", exhausted)
    plan = Surveyor(SETTINGS)(str(clip), lambda step: None)
    assert (plan.status, plan.stage, plan.reason) == (
        "error",
        "decode",
        "its header needs more than 1,024 MB of memory",
    )


def test_frame_processor_fills_record_and_faces(unit):
    record = unit.record
    assert (record.status, record.frames, record.faces, record.tracks) == ("ok", 10, 20, 2)
    assert (record.width, record.height, record.last_frame) == (128, 96, 9)
    assert set(record.seconds) == {"decode", "detect", "track", "align", "identity"}
    assert unit["frame_index"].to_pylist() == [i // 2 for i in range(20)]
    assert len(unit["crop"]) - unit["_chip"].null_count == 4  # two for each track


def test_frames_that_a_gpu_looks_at_together_give_the_same_rows(clip, monkeypatch):
    looked = []
    monkeypatch.setattr(fakes.FakeDetector, "prepare", lambda _, images: looked.append(len(images)), raising=False)
    monkeypatch.setattr(frame_processor, "AHEAD", 4)
    plan = planned(clip).plan
    (record, faces), (alone, expected) = (FrameProcessor(SETTINGS, d)(plan, lambda _: None) for d in ("cuda", "cpu"))
    assert looked == [4, 4, 2]
    assert (record.frames, record.last_frame, record.faces) == (alone.frames, alone.last_frame, alone.faces)
    assert faces == expected


def test_landmarks_are_in_crop_px_and_boxes_in_frame_px(unit):
    rows = unit.good
    landmarks = unit.numbers("landmarks", rows).reshape(len(rows), -1, 3)
    assert landmarks[..., :2].min() > 0
    assert landmarks[..., :2].max() < 512
    affine = unit.numbers("frame_to_crop", rows).reshape(-1, 2, 3)
    box = unit.numbers("box", rows)
    corner = np.einsum("nij,nj->ni", affine[:, :, :2], box[:, :2]) + affine[:, :, 2]
    assert (np.abs(corner - landmarks[..., :2].min(1)) < 8).all()


def test_damaged_video_is_partial_and_keeps_its_good_frames(clip, tmp_path):
    cut = tmp_path / "cut.mp4"
    data = clip.read_bytes()
    moov, mdat = data.index(b"moov"), data.index(b"mdat")
    assert mdat < moov  # the index is at the end: overwrite the second half of the frames instead of cutting
    middle = mdat + (moov - mdat) // 2
    cut.write_bytes(data[:middle] + b"\xff" * (moov - middle - 8) + data[moov - 8 :])
    unit = processed(planned(cut).plan)
    assert unit.record.status == "partial"
    assert unit.record.stage == "decode"
    assert 0 < unit.record.frames < 10
    together, _ = FrameProcessor(SETTINGS, "cuda")(unit.plan, lambda step: None)  # of a batch that the damage ends
    assert (together.status, together.frames, together.reason) == ("partial", unit.record.frames, unit.record.reason)
    assert len(unit.faces) == unit.record.faces > 0


@pytest.mark.skipif("Landlock" in missing_parts(), reason="needs Landlock, which this kernel lacks")
@pytest.mark.parametrize("target", ["pipelines.extract.survey:confined", "pipelines.extract.frame_processor:confined"])
def test_child_of_local_inputs_opens_no_file_but_reads_the_one_it_is_handed(clip, target):
    plan = Surveyor(SETTINGS)(str(clip), lambda step: None)
    is_survey = "survey" in target
    argument = plan.uri if is_survey else next(units_of(plan, "config"))
    child = WorkerProcess(target, {"settings": SETTINGS, "network": False}, silence_s=60)
    with open(clip, "rb") as file:
        handed, alone = child(argument, file), child(argument)
    child.close()
    assert (handed if is_survey else handed[0]).status == "ok"
    assert (alone if is_survey else alone[0]).reason == "this user has no permission to read it"


def test_input_is_handed_over_unless_it_is_remote_or_cannot_be_opened(clip, tmp_path):
    with handed(str(clip)) as file:
        assert file.read() == clip.read_bytes()
    for uri in (str(tmp_path), str(tmp_path / "gone.mp4"), "s3://bucket/a.mp4"):
        with handed(uri) as file:
            assert file is None


def test_missing_file_is_recorded_as_cannot_read(clip, tmp_path):
    unit = processed(replace(planned(clip).plan, uri=str(tmp_path / "gone.mp4")))
    record = unit.record
    assert (record.status, record.reason, record.crash) == ("error", "no such file", "CannotRead")
    assert not unit.has_faces


def test_crashing_file_is_an_error_after_two_tries_and_spares_the_next_file(clip, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    poison = tmp_path / "poison.mp4"
    poison.write_bytes(clip.read_bytes())
    child = WorkerProcess("test_stages:CrashesOn", {"name": "poison.mp4"}, silence_s=5)
    stage = CrashingDetectFaces(child, tmp_path / "out")
    bad, good = planned(poison), planned(clip)
    stage(bad)
    stage(good)
    child.close()
    assert (bad.record.status, bad.record.stage, bad.record.crash) == ("error", "decode", "SIGSEGV")
    assert bad.record.reason == "decode crashed 2 times on it: SIGSEGV"
    assert not bad.has_faces
    assert (good.record.status, good.record.frames) == ("ok", 1)


def test_input_with_two_crashed_units_is_quarantined_on_all_actors_until_forgotten(tmp_path):
    def dies(plan, begin, file):
        raise WorkerDied("SIGSEGV", "decode")

    video = fakes.video(tmp_path / "poison.mp4", (0.0,), frames=40)
    settings = replace(SETTINGS, chunk_frames=8)
    actor, other_actor = (CrashingDetectFaces(NoChild(dies), tmp_path / "out") for _ in range(2))
    units = [planned(video, index, settings) for index in range(5)]
    for stage, unit in zip((actor, other_actor, actor, other_actor), units):
        stage(unit)
    reasons = [unit.record.reason for unit in units[:4]]
    assert reasons[:2] == ["decode crashed 2 times on it: SIGSEGV"] * 2
    assert reasons[2:] == [f"not tried, because of other parts of it: {reasons[0]}"] * 2
    outcomes = {(u.record.status, u.record.stage, u.record.crash) for u in units[:4]}
    assert outcomes == {("error", "decode", "SIGSEGV")}
    again = planned(video, 0, settings)  # a killed run tries the first unit again: one other crash is not enough
    actor(again)
    assert again.record.reason == reasons[0]
    actor._quarantine.forget(str(video))
    other_actor(units[4])
    assert units[4].record.reason == reasons[0]


def test_coefficients_that_are_not_finite_fail_only_their_face(unit):
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


def test_face_without_quality_is_marked_as_error(unit):
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
    assert unit["reason"].to_pylist() == [None] * 4 + ["mask_and_score: too strange"] + [None] * 15
    assert unit["mask"].null_count == unit["sharpness"].null_count == 1


def test_unexpected_exception_of_a_stage_is_raised(unit):
    stage = Reconstruct(SETTINGS, "cpu")
    stage._reconstructor = lambda *arguments: {}["typo"]
    with pytest.raises(KeyError):
        stage(unit)


def test_written_part_has_the_schema_and_the_record(unit, tmp_path):
    for stage in (Reconstruct(SETTINGS, "cpu"), MaskAndScore(SETTINGS)):
        stage(unit)
    Write(str(tmp_path), fakes.HEAD, fakes.DETECTOR)(Shard([unit]))
    path = tmp_path / part_path(unit.plan.shard)
    part = pq.read_table(path)
    assert part.schema.remove_metadata().equals(schema.faces_schema(fakes.HEAD, fakes.DETECTOR).remove_metadata())
    assert set(part["uri"].to_pylist()) == {unit.plan.uri}
    assert [record.faces for record in records_of(part.schema)] == [20]
    assert unit.record.bytes == path.stat().st_size
    assert not unit.has_faces  # the driver gets a record only


def test_first_commit_of_a_shard_wins(unit, tmp_path):
    write = Write(str(tmp_path), fakes.HEAD, fakes.DETECTOR)
    duplicate = Unit(unit.plan, replace(unit.record, tracks=99), unit.blob)
    write(Shard([unit]))
    write(Shard([duplicate]))
    assert records_of(pq.read_schema(tmp_path / part_path(unit.plan.shard)))[0].tracks == 2


def test_shard_without_faces_leaves_records_only(tmp_path):
    unit = processed(planned(fakes.video(tmp_path / "empty room.mp4", (), frames=4)).plan)
    assert not unit.has_faces
    Write(str(tmp_path), fakes.HEAD, fakes.DETECTOR)(Shard([unit]))
    (stored,) = records_of_json((tmp_path / error_path(unit.plan.shard)).read_text())
    assert (stored.status, stored.frames, stored.faces) == ("ok", 4, 0)
    assert not (tmp_path / "faces").exists()


def test_row_groups_of_a_shard_have_faces_of_one_unit_each(clip, unit, tmp_path, monkeypatch):
    """And each unit has the bytes and the seconds of its faces."""
    monkeypatch.setattr(layout, "ROW_GROUP", 15)
    nothing, other = planned(clip), processed(unit.plan)
    shard = Shard([unit, nothing, Unit(replace(unit.plan, uri="/other.mp4"), other.record, other.blob)])
    Write(str(tmp_path), fakes.HEAD, fakes.DETECTOR)(shard)
    file = pq.ParquetFile(tmp_path / part_path(shard.name))
    groups = [file.metadata.row_group(k) for k in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [15, 5, 15, 5]
    uris = [group.column(0).statistics for group in groups]
    assert [(s.min, s.max) for s in uris] == [(uri, uri) for uri in (unit.plan.uri,) * 2 + ("/other.mp4",) * 2]
    assert [record.faces for record in records_of(file.schema_arrow)] == [20, 0, 20]
    half = pytest.approx((tmp_path / part_path(shard.name)).stat().st_size / 2, abs=1)
    assert [record.bytes for record in shard.records] == [half, 0, half]
    assert [record.seconds["write"] > 0 for record in shard.records] == [True, False, True]


def test_actor_runs_several_stages(clip, unit, tmp_path):
    makers = [
        (Reconstruct, {"settings": SETTINGS, "device": "cpu"}),
        (MaskAndScore, {"settings": SETTINGS}),
        (Write, {"out": str(tmp_path), "head": fakes.HEAD, "detector": fakes.DETECTOR}),
    ]
    row = StageActor(makers, str(tmp_path))(Shard([unit]).to_arrow())
    (done,) = Shard.from_arrow(row).units
    assert set(done.record.seconds) >= {"decode", "reconstruct", "parse", "quality", "write"}
    assert not done.has_faces
    assert (tmp_path / part_path(unit.plan.shard)).exists()


def test_shard_survives_arrow_and_its_faces_are_not_copied_when_they_are_read(clip, unit):
    nothing = planned(clip)
    row = Shard([unit, nothing, unit], again=True).to_arrow()
    received = Shard.from_arrow(pa.concat_tables([row, row]).combine_chunks().slice(1))
    assert received.again
    assert [u.plan for u in received.units] == [unit.plan, nothing.plan, unit.plan]
    assert received.records == [unit.record, nothing.record, unit.record]
    assert [u.has_faces for u in received.units] == [True, False, True]
    assert received.units[2].faces.equals(unit.faces)
    cells = row["faces"].chunk(0).values.buffers()[2]
    first = Shard.from_arrow(row).units[0].blob
    assert cells.address <= first.address < cells.address + cells.size


def test_crops_are_decoded_once_and_their_cache_is_bounded():
    cells = pa.array([encode_jpeg(np.full((512, 512, 3), i, np.uint8)) for i in range(3)])
    cache: dict = {}
    crops = Crops(cells, np.array([2, 0]), cache)
    assert [int(c[0, 0, 0]) for c in crops] == [2, 0]
    assert crops[0] is cache[2] is Crops(cells, np.array([0, 1, 2]), cache)[2]
    assert MAX_CACHED_CROPS * 512 * 512 * 3 < 300e6


def test_stages_that_lack_a_column_are_refused():
    columns = {c.name for c in schema.face_columns(fakes.HEAD, fakes.DETECTOR)}
    stages.check_columns([DetectFaces, Reconstruct, MaskAndScore, Write], columns)
    with pytest.raises(PlanError, match=r"mask_and_score needs .*'head_rotation'.*before it there are"):
        stages.check_columns([DetectFaces, MaskAndScore, Write], columns)
    with pytest.raises(PlanError, match=r"no stage adds \['mask'"):
        stages.check_columns([DetectFaces, Reconstruct, Write], {"mask"})


@pytest.mark.slow
def test_default_specs_equal_those_of_the_loaded_models():
    from pipelines.extract import components
    from pipelines.extract.config import Settings

    assert components.specs(Settings()) == components.Specs(Settings())(None, lambda step: None)
