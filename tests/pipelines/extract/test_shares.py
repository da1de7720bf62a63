"""Several drivers on one dataset: each adds its share, and a run without --shard joins and repairs."""

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from pipelines.extract import job
from pipelines.extract.config import ExtractConfig, Pool, cluster, debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import extract, extract_with_drivers
from pipelines.extract.layout import part_path
from pipelines.extract.progress import Progress
from rigface.errors import OutputBusy, PlanError
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.pipelines.conftest import faces_of, identities_of, inputs_of


def test_shares_and_the_run_that_joins_them_give_the_rows_of_one_run(finished, zoo, silent, tmp_path, monkeypatch):
    """One driver is lost for good: its share is done at the end."""
    out, names = tmp_path / "out", sorted(path.name for path in zoo.iterdir())

    def is_mine(config, uri: str) -> bool:  # by name: the hash of the path would give other shares in another folder
        return not config.shard or names.index(Path(uri).name) % 3 == int(config.shard[0]) - 1

    monkeypatch.setattr(ExtractConfig, "is_mine", is_mine)
    config = debug((str(zoo),), str(out))
    done = [extract(replace(config, shard=f"{k}/3"), silent).done["units"] for k in (1, 3)]
    assert all(done)
    assert not (out / "identities").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "faces").rglob("*.parquet")}
    rest = extract(config, silent).done["units"]
    assert rest > 0
    whole = FaceDataset(Store(str(finished)))
    assert sum(done) + rest == len(whole.units_in(chain(*whole.parts())))
    assert before.items() <= {path: path.stat().st_mtime_ns for path in (out / "faces").rglob("*.parquet")}.items()
    assert faces_of(out).equals(faces_of(finished))
    assert inputs_of(out).equals(inputs_of(finished))
    assert identities_of(out) == identities_of(finished)


def test_share_leaves_changed_inputs_and_lost_objects_to_the_last_run(finished, zoo, silent, tmp_path):
    folder, out = shutil.copytree(zoo, tmp_path / "zoo"), tmp_path / "out"
    config = debug((str(folder),), str(out))
    extract(config, silent)
    fakes.video(folder / "short.mp4", (0.5,), frames=6, seed=3)
    dataset = FaceDataset(Store(str(out)))
    lost = next(shard for shard in dataset.parts()[0] if "two people" in dataset.records(shard)[0].uri)
    dataset.store.delete(part_path(lost))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    for k in (1, 2):
        assert extract(replace(config, shard=f"{k}/2"), silent).done["units"] == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    assert extract(config, silent).done["units"] >= 2
    assert len(faces_of(out)) == len(faces_of(finished)) + 1


def test_every_input_is_of_one_share():
    config = debug(("a",), "b")
    uris = [f"/clips/{k}.mp4" for k in range(300)]
    shares = [[uri for uri in uris if replace(config, shard=f"{k}/3").is_mine(uri)] for k in (1, 2, 3)]
    assert sorted(chain(*shares)) == sorted(uris)
    assert min(map(len, shares)) > 70
    assert all(config.is_mine(uri) for uri in uris)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3"])
def test_share_that_is_none_is_refused(shard):
    with pytest.raises(PlanError, match="want I/N"):
        replace(debug(("a",), "b"), shard=shard)


def test_share_changes_nothing_that_is_there():
    with pytest.raises(PlanError, match="without --shard"):
        replace(debug(("a",), "b"), shard="1/2", retry_errors=True)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("1-of-2", "2-of-2", True),
        ("1-of-2", "1-of-2", False),
        ("1-of-2", "", False),
        ("", "2-of-2", False),
        ("1-of-2", "2-of-3", False),
    ],
)
def test_locks_of_parts_go_together_if_they_are_of_as_many(first, second, together, tmp_path):
    store, other = Store(str(tmp_path)), Store(str(tmp_path))
    with lock.hold(store, first):
        if together:
            with lock.hold(other, second):
                assert lock.held(store).count("process") == 2
        else:
            with pytest.raises(OutputBusy, match="being written by another run"), lock.hold(other, second):
                pass
        assert lock.held(store).count("process") == 1
    assert not lock.held(store)


def test_leases_of_parts_keep_out_a_run_on_the_whole(bucket):
    store = Store(f"{bucket}/parts")
    with lock.hold(store, "1-of-2"), lock.hold(Store(store.uri), "2-of-2"):
        with pytest.raises(OutputBusy), lock.hold(Store(store.uri)):
            pass
        worker = lock.follow(Store(store.uri), "2-of-2")
        worker.publish("unit", b"x")
    with lock.hold(store):
        pass


def test_drivers_divide_the_pools_and_their_dataset_is_begun_before(zoo, silent, tmp_path, monkeypatch):
    ran = []
    out = str(tmp_path / "out")

    def run_drivers(work, count, say):
        config, *_ = work.args
        ran.append((count, config.detect_faces.max_actors, config.reconstruct.max_actors, config.overwrite))
        assert FaceDataset(Store(out)).info()
        return 0

    monkeypatch.setattr(job, "run_drivers", run_drivers)
    config = replace(debug((str(zoo / "short.mp4"),), out), overwrite=True, in_process="always")
    pools = {"detect_faces": Pool(actors=4, max_actors=9), "reconstruct": Pool(actors=1, max_actors=2)}
    extract_with_drivers(replace(config, **pools), 4)
    assert ran == [(4, 3, 1, False)]
    assert len(faces_of(Path(out))) == 5


def test_drivers_without_a_cluster_are_refused(zoo, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(PlanError, match="--jobs shares a cluster"):
        extract_with_drivers(debug((str(zoo),), str(tmp_path / "out")), 2)
    assert cluster().address == "auto"


def test_display_of_a_driver_begins_its_lines_with_its_share(capfd):
    with Progress(label="2/4 ") as progress:
        progress.message("surveying")
    assert capfd.readouterr().err == "2/4 [0:00] surveying\n"
