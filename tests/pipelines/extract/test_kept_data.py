"""Data that a further run keeps, repairs and removes."""

import errno
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import run_info
from pipelines.convert.adopt import adopt
from pipelines.extract import planning
from pipelines.extract.config import debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.identities import identify
from pipelines.extract.job import extract
from pipelines.extract.layout import error_path, parquet, part_path, rows_of, with_records
from pipelines.extract.plan import Plan, UnitPlan, units_of
from pipelines.extract.unit import records_json
from pipelines.inputs import sources
from rigface.errors import JobBroken, PlanError
from rigface.storage.store import Store
from rigface.testing import fakes
from rigface.types import DetectorSpec
from tests.pipelines.conftest import faces_of, identities_of, inputs_of


@pytest.fixture
def dataset(finished, tmp_path) -> FaceDataset:
    """A copy of the finished dataset."""
    shutil.copytree(finished, tmp_path / "out")
    return FaceDataset(Store(str(tmp_path / "out")))


def unreadable(monkeypatch, *names: str) -> None:
    """Make the sources of these names unreachable, as a disk that is not mounted."""
    real = sources.stamp

    def stamp(uri: str) -> str:
        if uri.endswith(names):
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(uri)

    monkeypatch.setattr(sources, "stamp", stamp)


def units(dataset: FaceDataset, uri: str) -> list[UnitPlan]:
    """The units of an input by its latest plan."""
    stored = FaceDataset(dataset.store)  # which has not listed the plans yet
    return list(units_of(stored.plans.load([uri])[uri], stored.info()["config"]))


def held(dataset: FaceDataset) -> set[str]:
    """All units that are in some shard."""
    return set(dataset.units_in(chain(*dataset.parts())))


def same_data(dataset: FaceDataset, finished) -> bool:
    out = Path(dataset.store.uri)
    return faces_of(out).equals(faces_of(finished)) and inputs_of(out).equals(inputs_of(finished))


@pytest.mark.parametrize("retry", [False, True])
def test_unreachable_input_keeps_rows_and_has_its_own_status(dataset, finished, zoo, silent, monkeypatch, retry):
    unreadable(monkeypatch, "two people.mp4", "text.mp4")
    config = replace(debug((str(zoo),), dataset.store.uri), retry_errors=retry)
    summary = extract(config, silent)
    assert same_data(dataset, finished)
    assert {status: count.inputs for (status, _), count in summary.outcomes.items()} == {
        "ok": 4,
        "no_face": 1,
        "error": 1,
        "unreachable": 2,
    }


def test_many_unreachable_inputs_stop_the_job_and_change_nothing(dataset, finished, zoo, silent, monkeypatch):
    unreadable(monkeypatch, ".mp4")
    with pytest.raises(JobBroken, match=r"6 of 8 known inputs cannot be read, such as .*mount the disk"):
        extract(debug((str(zoo),), dataset.store.uri), silent)
    assert same_data(dataset, finished)


def test_content_that_cannot_be_surveyed_replaces_nothing(dataset, finished, zoo, silent, monkeypatch):
    real = sources.stamp
    monkeypatch.setattr(sources, "stamp", lambda uri: "touched" if "short" in uri else real(uri))
    refused = Plan(str(zoo / "short.mp4")).refused("decode", "no such file")
    monkeypatch.setattr(planning, "survey", lambda uris, *_: [refused if "short" in uri else Plan(uri) for uri in uris])
    summary = extract(debug((str(zoo),), dataset.store.uri), silent)
    assert summary.outcomes["unreachable", ""].inputs == 1
    assert same_data(dataset, finished)


def test_forget_removes_all_of_an_input(dataset, zoo):
    uri = str(zoo / "two people.mp4")
    parts = {unit.unit_id for unit in units(dataset, uri)}
    before, had = len(list(dataset.plans.latest())), held(dataset)
    dataset.forget([uri])
    assert uri not in dataset.inputs()["uri"].to_pylist()
    assert held(dataset) == had - parts
    assert len(list(dataset.plans.latest())) == before - 1
    with pytest.raises(PlanError, match="is not an input of"):
        dataset.forget([uri])


@pytest.mark.slow
def test_retry_repairs_units_that_broke_off(dataset, finished, zoo, silent):
    """A unit with some faces and a reading error is not finished for `--retry-errors`."""
    uri = str(zoo / "short.mp4")
    (unit,) = units(dataset, uri)
    broken = {"status": "partial", "stage": "decode", "reason": "EIO", "crash": "CannotRead", "frames": 3, "faces": 3}
    change_unit(dataset, unit, **broken)
    dataset.reopen([uri])
    config = debug((str(zoo),), dataset.store.uri)
    assert extract(config, silent).done["units"] == 0
    assert extract(replace(config, retry_errors=True), silent).done["units"] == 1
    out = Path(dataset.store.uri)
    assert inputs_of(out).equals(inputs_of(finished))
    assert faces_of(out).equals(faces_of(finished))


def test_retry_keeps_parts_that_were_read_to_the_end(dataset, zoo):
    uri = str(zoo / "two people.mp4")
    before = held(dataset)
    dataset.retry([dataset.plans.load([uri])[uri]], dataset.info()["config"])
    assert held(dataset) == before
    assert uri not in dataset.inputs()["uri"].to_pylist()


def test_reopened_input_loses_its_identities_and_gets_the_same_again(dataset, zoo):
    uri, before = str(zoo / "two people.mp4"), identities_of(Path(dataset.store.uri))
    dataset.reopen([uri])
    after = identities_of(Path(dataset.store.uri))
    assert before.keys() - after.keys() == {(uri, 0), (uri, 1)}
    assert after.items() <= before.items()


def test_identities_leave_out_unfinished_inputs(dataset, zoo):
    uri = str(zoo / "two people.mp4")
    tracks = identify(dataset.store).tracks
    dataset.reopen([uri])
    assert identify(dataset.store).tracks == tracks - 2
    assert uri not in {key[0] for key in identities_of(Path(dataset.store.uri))}


def test_other_chunks_of_the_same_content_replace_the_old_units(dataset, zoo):
    uri = str(zoo / "two people.mp4")
    old = dataset.plans.load([uri])[uri]
    parts, before = {unit.unit_id for unit in units(dataset, uri)}, held(dataset)
    new = replace(old, stamp="touched", chunks=old.chunks[:1], expected=old.expected[:1])
    assert dataset.add_plans([new], {uri: old}, dataset.info()["config"]) == 1
    assert held(dataset) == before - parts


def test_touched_input_with_the_same_chunks_keeps_its_units(dataset, zoo):
    uri = str(zoo / "two people.mp4")
    old = dataset.plans.load([uri])[uri]
    before = held(dataset)
    assert dataset.add_plans([replace(old, stamp="touched")], {uri: old}, dataset.info()["config"]) == 0
    assert held(dataset) == before


def change_unit(dataset: FaceDataset, unit: UnitPlan, **changes) -> None:
    """Give a unit another record, and as many of its rows as that says."""
    before = dataset.records(unit.shard)
    records = [replace(record, **changes) if record.unit_id == unit.unit_id else record for record in before]
    table = dataset.store.table(part_path(unit.shard))
    rows = [of_unit.slice(0, record.faces) for of_unit, record in zip(rows_of(table, before), records)]
    dataset.store.publish(part_path(unit.shard), parquet(with_records(pa.concat_tables(rows), records)))


def test_orphaned_shards_of_known_inputs_are_swept(dataset, finished, zoo, silent):
    """A shard that was committed late, of earlier plans; one of an unknown input stays."""
    (unit,) = units(dataset, str(zoo / "short.mp4"))
    dataset.store.publish(part_path("0" * 24), dataset.store.read(part_path(unit.shard)))
    unknown = replace(dataset.records(unit.shard)[0], uri="/elsewhere.mp4")
    dataset.store.publish(error_path("1" * 24), records_json([unknown]).encode())
    assert extract(debug((str(zoo),), dataset.store.uri), silent).done["units"] == 0
    assert "0" * 24 not in dataset.done()
    assert "1" * 24 in dataset.done()
    assert same_data(dataset, finished)


def neighbours(dataset: FaceDataset, uri: str) -> list[str]:
    """Other inputs in the shard of an input."""
    (unit,) = units(dataset, uri)
    return [record.uri for record in dataset.records(unit.shard) if record.uri != uri]


@pytest.mark.slow
def test_changed_input_leaves_its_shard_and_its_neighbours_are_not_done_again(dataset, finished, zoo, silent, tmp_path):
    """Its new rows are in another shard; a reader finds the rows of one content."""
    folder = shutil.copytree(zoo, tmp_path / "zoo")
    adopt(dataset.store, str(zoo))
    config = debug((str(folder),), dataset.store.uri)
    config = replace(config, settings=replace(config.settings, root=str(folder)))
    assert neighbours(dataset, "short.mp4")
    fakes.video(folder / "short.mp4", (0.5,), frames=6, seed=3)
    assert extract(config, silent).done["units"] == 1
    out = Path(dataset.store.uri)
    rows = faces_of(out).select(["uri", "frame_index"]).to_pylist()
    assert [row["frame_index"] for row in rows if row["uri"] == "short.mp4"] == list(range(6))
    assert len(rows) == len(faces_of(finished)) + 1
    assert not neighbours(dataset, "short.mp4")
    assert extract(config, silent).done["units"] == 0


@pytest.mark.slow
def test_run_that_was_killed_while_it_removed_an_input_does_its_units_again(dataset, finished, zoo, silent):
    """Its rows and units are gone, its old plan is there, and so is the shard with its neighbours."""
    uri = str(zoo / "short.mp4")
    assert neighbours(dataset, uri)
    dataset._remove([dataset.plans.load([uri])[uri]], dataset.info()["config"])
    assert extract(debug((str(zoo),), dataset.store.uri), silent).done["units"] == 1
    out = Path(dataset.store.uri)
    assert inputs_of(out).equals(inputs_of(finished))
    assert faces_of(out).equals(faces_of(finished))


@pytest.mark.slow
def test_units_of_a_shard_that_was_not_done_are_bundled_anew_if_not_all_are_wanted(dataset, finished, zoo, silent):
    uri = str(zoo / "short.mp4")
    (unit,) = units(dataset, uri)
    others = neighbours(dataset, uri)
    dataset.store.delete(part_path(unit.shard))
    dataset.reopen([uri, *others])
    assert extract(debug((uri,), dataset.store.uri), silent).done["units"] == 1
    assert not neighbours(dataset, uri)
    assert extract(debug((str(zoo),), dataset.store.uri), silent).done["units"] == len(others)
    out = Path(dataset.store.uri)
    assert inputs_of(out).equals(inputs_of(finished))
    assert faces_of(out).equals(faces_of(finished))


def test_dataset_of_the_layout_before_shards_is_refused_with_the_command_that_converts_it(dataset, zoo, silent):
    run_info.write(dataset.store, dataset.info() | {"schema": ["faces/0", "inputs/1"]})
    with pytest.raises(PlanError, match=r"layout faces/0 .*`rigface convert .* NEW` writes it in the layout"):
        extract(debug((str(zoo),), dataset.store.uri), silent)


def test_dataset_of_an_older_version_or_of_another_mount_is_continued(dataset):
    info = dataset.info()
    info["config"] = "0123456789abcdef"  # a hash with a folder in it
    info["settings"]["parser_folder"] = "/old/mount"
    del info["settings"]["jpeg_quality"], info["detector"]["parser"]  # fields that did not exist
    run_info.write(dataset.store, info)
    detector = replace(fakes.DETECTOR, parser=DetectorSpec.parser)
    assert dataset.begin_run(debug().settings, fakes.HEAD, detector, overwrite=False) == info["config"]
    assert dataset.info()["config"] == info["config"]
    with pytest.raises(PlanError, match="jpeg_quality: 92 -> 80"):
        dataset.check(replace(debug().settings, jpeg_quality=80), fakes.HEAD, detector, overwrite=False)
