"""The table of identities: stable names, work only for what is new, and common names across datasets."""

import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.extract import identities
from pipelines.extract.config import debug
from pipelines.extract.identities import identify, join
from pipelines.extract.job import extract
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.pipelines.conftest import identities_of


def names(out):
    """(file name, track) -> the name of the person."""
    return {(uri.rsplit("/", 1)[-1], track): name for (uri, track), name in identities_of(out).items()}


def mtimes(out, *folders):
    return {p: p.stat().st_mtime_ns for folder in folders for p in (out / folder).rglob("*.parquet")}


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture
def others(silent, tmp_path):
    """A dataset of other inputs: a cyan person, whom the zoo has, and a violet one, whom it has not."""
    folder = tmp_path / "others"
    folder.mkdir()
    fakes.video(folder / "a cyan and a violet.mp4", (0.5, 0.85), frames=6, seed=5)
    extract(debug((str(folder),), str(tmp_path / "other")), silent)
    return tmp_path / "other"


def test_person_has_one_name_in_every_video(finished):
    name = names(finished)
    red, cyan = (name["two people.mp4", track] for track in (0, 1))
    assert red != cyan
    assert name["short.mp4", 0] == name["mp4 named jpg.jpg", 0] == cyan
    assert len({red, cyan, name["ünïcode 顔 (copy).mp4", 0], name["portrait.jpg", 0]}) == 4


def test_rows_say_how_far_a_track_is_from_its_person(finished):
    (path,) = (finished / "identities").iterdir()
    table = pq.read_table(path)
    assert set(table["faces"].to_pylist()) > {1}
    assert max(table["distance"].to_pylist()) < 0.4
    assert table.schema.field("vector").type.list_size == 128


def test_second_pass_reads_no_faces_and_writes_nothing(copy, monkeypatch):
    before = mtimes(copy, "faces", "identities")
    monkeypatch.setattr(identities, "Faces", None)
    report = identify(Store(str(copy)))
    assert (report.people, report.added) == (4, 0)
    assert mtimes(copy, "faces", "identities") == before


def test_pass_killed_between_objects_is_continued(copy, monkeypatch):
    before = names(copy)
    shutil.rmtree(copy / "identities")
    monkeypatch.setattr(identities, "ROWS", 1)
    real, calls = identities.publish_by_hash, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(identities, "publish_by_hash", dies)
    with pytest.raises(KeyboardInterrupt):
        identify(Store(str(copy)))
    monkeypatch.setattr(identities, "publish_by_hash", real)
    report = identify(Store(str(copy)))
    assert 0 < report.added < report.tracks
    assert names(copy) == before


def test_people_are_named_alike_wherever_their_rows_lie(copy):
    """Two runs on the same inputs may bundle them otherwise: here each object gets the content of another."""
    before = names(copy)
    shutil.rmtree(copy / "identities")
    parts = [copy / path for path in Faces(Store(str(copy))).parts]
    for path, content in zip(parts, [path.read_bytes() for path in reversed(parts)]):
        path.write_bytes(content)
    identify(Store(str(copy)))
    assert len(parts) > 3
    assert names(copy) == before


@pytest.mark.slow
def test_names_stay_after_videos_are_added(copy, zoo, silent, tmp_path):
    before, parts = names(copy), mtimes(copy, "faces", "identities")
    more = tmp_path / "more"
    more.mkdir()
    fakes.video(more / "a cyan and a violet.mp4", (0.5, 0.85), frames=6, seed=5)
    extract(debug((str(zoo), str(more)), str(copy)), silent)
    after = names(copy)
    assert {key: after[key] for key in before} == before
    assert parts.items() <= mtimes(copy, "faces", "identities").items()
    added = [after["a cyan and a violet.mp4", track] for track in (0, 1)]
    assert before["short.mp4", 0] in added
    assert len(set(after.values())) == 5


def test_names_of_an_older_dataset_stay(copy):
    """There they are a column of faces/, and the table is missing."""
    store, wanted = Store(str(copy)), {}
    shutil.rmtree(copy / "identities")
    for path in Faces(store).parts:
        part = pq.read_table(copy / path)
        own = [f"p{(len(u) + t) % 3:06}" for u, t in zip(part["uri"].to_pylist(), part["track"].to_pylist())]
        wanted |= dict(zip(zip(part["uri"].to_pylist(), part["track"].to_pylist()), own))
        pq.write_table(part.append_column("identity", pa.array(own)), copy / path)
    identify(store)
    assert identities_of(copy) == wanted


def test_other_threshold_clusters_anew_and_stays(copy):
    report = identify(Store(str(copy)), threshold=1.99)
    assert report.people == 2  # all tracks are one person, except those that one frame shows together
    assert "threshold 1.99" in str(identify(Store(str(copy))))
    assert identify(Store(str(copy)), threshold=0.8).people == 4


@pytest.mark.slow
def test_people_of_several_datasets_get_common_names(copy, others):
    before, faces = names(copy), mtimes(others, "faces")
    cyan = before["short.mp4", 0]
    assert cyan not in names(others).values()
    reports = join([Store(str(copy)), Store(str(others))])
    assert [report.people for report in reports] == [4, 2]
    after = names(others)
    assert names(copy) == before
    assert cyan in after.values()
    assert len(set(after.values()) | set(before.values())) == 5
    assert mtimes(others, "faces") == faces
    assert join([Store(str(copy)), Store(str(others))]) == [replace(report, added=0) for report in reports]
    assert names(others) == after


@pytest.mark.slow
def test_killed_renaming_is_continued(copy, others, monkeypatch):
    monkeypatch.setattr(identities, "plain_parquet", lambda table: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        join([Store(str(copy)), Store(str(others))])
    monkeypatch.undo()
    identify(Store(str(others)))
    assert names(copy)["short.mp4", 0] in names(others).values()


@pytest.mark.slow
def test_datasets_of_different_thresholds_are_not_joined(copy, others):
    identify(Store(str(others)), threshold=0.5)
    with pytest.raises(PlanError, match="thresholds"):
        join([Store(str(copy)), Store(str(others))])
