"""Data that a further run keeps, repairs and removes."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import run_info
from pipelines.extract import planning
from pipelines.extract.config import debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.identities import identify
from pipelines.extract.job import extract
from pipelines.extract.layout import error_path, part_path, record_of, with_record
from pipelines.extract.layout import parquet as encode_part
from pipelines.extract.plan import Plan, units_of
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


def units(dataset: FaceDataset, uri: str) -> list[str]:
    return [unit.unit_id for unit in units_of(dataset.plans.load([uri])[uri], dataset.info()["config"])]


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
    parts = units(dataset, uri)
    before = len(dataset.plans.load())
    dataset.forget([uri])
    assert uri not in dataset.inputs()["uri"].to_pylist()
    assert not any(unit in dataset.done() for unit in parts)
    assert len(dataset.plans.load()) == before - 1
    with pytest.raises(PlanError, match="is not an input of"):
        dataset.forget([uri])


@pytest.mark.slow
def test_retry_repairs_units_that_broke_off(dataset, finished, zoo, silent):
    """A unit with some faces and a reading error is not finished for `--retry-errors`."""
    uri = str(zoo / "short.mp4")
    (unit,) = units(dataset, uri)
    part = dataset.store.table(part_path(unit))
    record = replace(
        record_of(part.schema), status="partial", stage="decode", reason="EIO", crash="CannotRead", frames=3
    )
    dataset.store.publish(part_path(unit), encode_part(with_record(part.slice(0, 3), record)))
    dataset.reopen([uri])
    config = debug((str(zoo),), dataset.store.uri)
    assert extract(config, silent).done["units"] == 0
    assert extract(replace(config, retry_errors=True), silent).done["units"] == 1
    out = Path(dataset.store.uri)
    assert inputs_of(out).equals(inputs_of(finished))
    assert faces_of(out).equals(faces_of(finished))


def test_retry_keeps_parts_that_were_read_to_the_end(dataset, zoo):
    uri = str(zoo / "two people.mp4")
    parts = units(dataset, uri)
    dataset.retry([dataset.plans.load([uri])[uri]], dataset.info()["config"])
    assert all(unit in dataset.done() for unit in parts)
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
    parts = units(dataset, uri)
    new = replace(old, stamp="touched", chunks=old.chunks[:1], expected=old.expected[:1])
    assert dataset.add_plans([new], {uri: old}, dataset.info()["config"]) == 1
    assert not any(unit in dataset.done() for unit in parts)


def test_touched_input_with_the_same_chunks_keeps_its_units(dataset, zoo):
    uri = str(zoo / "two people.mp4")
    old = dataset.plans.load([uri])[uri]
    assert dataset.add_plans([replace(old, stamp="touched")], {uri: old}, dataset.info()["config"]) == 0
    assert all(unit in dataset.done() for unit in units(dataset, uri))


def test_orphaned_units_of_known_inputs_are_swept(dataset, finished, zoo, silent):
    """A unit that was committed late, of an earlier plan; a unit of an unknown input stays."""
    uri = str(zoo / "short.mp4")
    (unit,) = units(dataset, uri)
    part = dataset.store.table(part_path(unit))
    dataset.store.publish(part_path("0" * 24), encode_part(part))
    unknown = replace(record_of(part.schema), uri="/elsewhere.mp4")
    dataset.store.publish(error_path("1" * 24), unknown.to_json().encode())
    assert extract(debug((str(zoo),), dataset.store.uri), silent).done["units"] == 0
    assert "0" * 24 not in dataset.done()
    assert "1" * 24 in dataset.done()
    assert same_data(dataset, finished)


def test_part_written_again_has_the_new_record(dataset, zoo):
    (unit,) = units(dataset, str(zoo / "short.mp4"))
    part = dataset.store.table(part_path(unit))
    record = replace(record_of(part.schema), numbered=[(0, 3)])
    dataset.store.publish(part_path(unit), encode_part(with_record(part, record)))
    assert dataset.record(unit) == record


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
