"""Identity clustering: stable names, and parts rewritten only if they change."""

import shutil

import pyarrow.parquet as pq
import pytest

from pipelines.extract import identities
from pipelines.extract.config import debug
from pipelines.extract.identities import identify
from pipelines.extract.job import extract
from pipelines.extract.layout import record_of
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.pipelines.conftest import faces_of


def names(out):
    """(file name, track) -> the only name of its rows."""
    found = {}
    for row in faces_of(out).select(["uri", "track", "identity"]).to_pylist():
        found.setdefault((row["uri"].rsplit("/", 1)[-1], row["track"]), set()).add(row["identity"])
    assert all(len(of_track) == 1 for of_track in found.values()), found
    return {key: of_track.pop() for key, of_track in found.items()}


def mtimes(out):
    return {path: path.stat().st_mtime_ns for path in (out / "faces").rglob("*.parquet")}


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_person_has_one_name_in_every_video(finished):
    name = names(finished)
    red, cyan = (name["two people.mp4", track] for track in (0, 1))
    assert red != cyan
    assert name["short.mp4", 0] == name["mp4 named jpg.jpg", 0] == cyan
    assert len({red, cyan, name["ünïcode 顔 (copy).mp4", 0], name["portrait.jpg", 0]}) == 4


def test_second_pass_changes_nothing(copy):
    before = mtimes(copy)
    report = identify(Store(str(copy)))
    assert (report.people, report.rewritten) == (4, 0)
    assert mtimes(copy) == before


def test_killed_pass_continues_with_the_same_names(copy, monkeypatch):
    whole = names(copy)
    (copy / ".rigface" / "identities.npz").unlink()
    for path in (copy / "faces").rglob("*.parquet"):  # as they were before any pass
        identities.rewrite(Store(str(copy)), str(path.relative_to(copy)), {})
    real, calls = identities.rewrite, []

    def dies(store, path, wanted):
        calls.append(path)
        if len(calls) > 3:
            raise KeyboardInterrupt
        real(store, path, wanted)

    monkeypatch.setattr(identities, "REWRITE_THREADS", 1)
    monkeypatch.setattr(identities, "rewrite", dies)
    monkeypatch.setattr(identities, "_run_all", lambda task, jobs: [task(*job) for job in jobs])
    with pytest.raises(KeyboardInterrupt):
        identify(Store(str(copy)))
    monkeypatch.undo()
    identify(Store(str(copy)))
    assert names(copy) == whole


def test_rewrite_changes_only_the_identity_column(copy):
    path = next(p for p in (copy / "faces").rglob("*.parquet") if p.name != "schema.parquet")
    before = pq.read_table(path)
    identities.rewrite(Store(str(copy)), str(path.relative_to(copy)), {0: "p000099", 1: "p000098"})
    after = pq.read_table(path)
    assert after.drop_columns("identity").equals(before.drop_columns("identity"))
    assert record_of(after.schema) == record_of(before.schema)
    assert after.schema.metadata == before.schema.metadata


def test_names_stay_after_videos_are_added(copy, zoo, silent, tmp_path):
    before = names(copy)
    more = tmp_path / "more"
    more.mkdir()
    fakes.video(more / "a cyan and a violet.mp4", (0.5, 0.85), frames=6, seed=5)
    extract(debug((str(zoo), str(more)), str(copy)), silent)
    after = names(copy)
    assert {key: after[key] for key in before} == before
    added = [after["a cyan and a violet.mp4", track] for track in (0, 1)]
    assert before["short.mp4", 0] in added
    assert len(set(after.values())) == 5


def test_other_threshold_clusters_anew(copy):
    report = identify(Store(str(copy)), threshold=1.99)
    assert report.people == 2  # all tracks are one person, except those that one frame shows together
    assert "threshold 1.99" in str(report)
    assert identify(Store(str(copy))).people == 4
