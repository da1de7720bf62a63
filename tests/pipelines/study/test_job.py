"""`rigface study`: tables of a dataset, continued and kept up to date."""

import shutil

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from pipelines.cluster.workers import Workers
from pipelines.study.config import StudyConfig
from pipelines.study.job import study
from rigface.errors import PlanError
from rigface.storage.store import Store
from tests.pipelines.conftest import faces_of


def tables(out):
    return (ds.dataset(out / "study" / name, format="parquet").to_table() for name in ("frames", "tracks"))


def quiet(text: str) -> None:
    pass


def test_every_face_and_track_of_finished_inputs_is_measured_once(finished, tmp_path):
    said = []
    counts = study(StudyConfig(str(finished), str(tmp_path)), said.append)
    frames, tracks = tables(tmp_path)
    faces = faces_of(finished)
    assert counts == {"inputs": len(set(faces["uri"].to_pylist())), "faces": len(faces), "tracks": len(tracks)}
    keys = ["uri", "frame_index", "track"]
    assert sorted(map(tuple, (r.values() for r in frames.select(keys).to_pylist()))) == sorted(
        map(tuple, (r.values() for r in faces.select(keys).to_pylist()))
    )
    assert sum(tracks["faces"].to_pylist()) == len(faces)
    assert "columns that need them stay null" in said[0]  # the fake detector has scores of its own
    assert study(StudyConfig(str(finished), str(tmp_path)), quiet) == {}


def test_a_changed_input_is_measured_again_and_a_batch_without_tracks_is_removed(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    whole = study(StudyConfig(str(out)), quiet)
    (name,) = (out / "study" / "frames").iterdir()
    shutil.copy(name, name.with_name("f" * 24 + ".parquet"))
    inputs = next(iter((out / "inputs").glob("*.parquet")))
    table = pq.read_table(inputs)
    at = next(i for i, n in enumerate(table["faces"].to_pylist()) if n)
    content = [f"{v}x" if i == at else v for i, v in enumerate(table["sha256"].to_pylist())]
    pq.write_table(table.set_column(table.schema.get_field_index("sha256"), "sha256", [content]), inputs)
    assert study(StudyConfig(str(out)), quiet)["inputs"] == 1
    frames, tracks = tables(out)
    assert (len(frames), len(tracks)) == (whole["faces"], whole["tracks"])


def test_dry_run_writes_nothing_and_a_folder_without_faces_is_refused(finished, tmp_path):
    assert study(StudyConfig(str(finished), str(tmp_path / "a"), dry_run=True), quiet) == {}
    assert not list((tmp_path / "a").rglob("*.parquet"))
    with pytest.raises(PlanError, match="no faces"):
        study(StudyConfig(str(tmp_path)), quiet)


def test_workers_on_a_cluster_and_s3_give_the_same_tables(finished, tmp_path, bucket, ray_cluster):
    study(StudyConfig(str(finished), str(tmp_path)), quiet)
    place = f"{bucket}/study-job"
    study(StudyConfig(str(finished), place, pool=Workers(1, 0.5, address=ray_cluster)), quiet)
    store = Store(place)
    for name, here in zip(("frames", "tracks"), tables(tmp_path)):
        there = ds.dataset(store.at(f"study/{name}"), filesystem=store.fs, format="parquet").to_table()
        order = [(key, "ascending") for key in ("uri", "track", *["frame_index"] * (name == "frames"))]
        both = (table.sort_by(order).to_pandas() for table in (there, here))
        assert_frame_equal(*both, rtol=1e-3)  # other batches have other last bits
