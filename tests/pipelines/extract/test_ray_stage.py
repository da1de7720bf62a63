"""`rigface.ray` beside the job: the same rows, chained with a stage of one's own, and a dataset read as tensors."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rigface.image import encode_jpeg
from rigface.ray import FaceModels, Faces, read_faces
from rigface.ray.tensors import tensors
from rigface.testing import fakes
from rigface.video.decode import read_frames
from tests.pipelines.conftest import faces_of


def fake_models(**options) -> FaceModels:
    return FaceModels(
        fakes.FakeDetector(), fakes.FakeReconstructor(), fakes.fake_mask, fakes.FakeIdentity(), fakes.fake_quality
    )


def of_input(finished, name: str) -> pa.Table:
    """The job's rows of an input, without its name and person."""
    rows = faces_of(finished)
    return rows.filter(pa.array([uri.endswith(name) for uri in rows["uri"].to_pylist()])).drop_columns(["uri"])


def plain(table: pa.Table) -> list[dict]:
    return table.sort_by([("frame_index", "ascending"), ("track", "ascending")]).drop_columns(["uri"]).to_pylist()


def test_a_picture_gives_the_rows_of_the_job_bit_for_bit(zoo, finished):
    data = (zoo / "portrait.jpg").read_bytes()
    table = Faces(fake_models)(pa.table({"bytes": [data], "path": ["portrait.jpg"]}))
    assert table["uri"].to_pylist() == ["portrait.jpg"]
    assert plain(table) == of_input(finished, "portrait.jpg").to_pylist()


def test_frames_of_a_clip_are_tracked_and_give_the_rows_of_the_job(zoo, finished):
    with (zoo / "short.mp4").open("rb") as file:
        frames = list(read_frames(file, None, None))
    batch = {
        "image": [frame.image for frame in reversed(frames)],
        "uri": ["short.mp4"] * len(frames),
        "frame_index": [frame.index for frame in reversed(frames)],
        "time_s": [frame.time_s for frame in reversed(frames)],
    }
    assert plain(Faces(fake_models)(batch)) == of_input(finished, "short.mp4").to_pylist()


def test_what_cannot_be_read_is_a_row_and_a_picture_without_a_face_is_none():
    two = encode_jpeg(fakes.picture((0.1, 0.6)))
    batch = pa.table({"bytes": [b"no picture", encode_jpeg(fakes.picture(())), two], "label": [7, 8, 9]})
    table = Faces(fake_models, keep=["label"])(batch)
    assert table["label"].to_pylist() == [7, 9, 9]
    assert table["status"].to_pylist() == ["error", "ok", "ok"]
    assert table["reason"][0].as_py()
    assert table["track"].to_pylist() == [None, 0, 1]
    assert table["landmarks"].null_count == 1

    class Together(fakes.FakeDetector):
        def prepare(self, images):
            self.seen = len(images)

    models = replace(fake_models(), detector=Together(), looks_ahead=True)
    assert Faces(lambda: models, keep=["label"])(batch).equals(table)
    assert models.detector.seen == 2


def test_a_batch_without_pictures_is_a_mistake_and_an_empty_one_is_not():
    stage = Faces(fake_models)
    with pytest.raises(ValueError, match="bytes"):
        stage({"path": ["a.jpg"]})
    assert stage(pa.table({"bytes": pa.array([], pa.binary())})).schema == stage.schema


def test_a_dataset_is_read_as_tensors_and_chained_with_a_stage_of_ones_own(zoo, finished, ray_cluster):
    import ray.data

    found = ray.data.from_items([{"bytes": (zoo / "portrait.jpg").read_bytes(), "uri": "portrait.jpg"}]).map_batches(
        Faces, fn_constructor_kwargs={"models": fake_models, "tensors": True}, batch_format="pyarrow", num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=1),
    )  # fmt: skip
    wide = found.map_batches(lambda batch: {"width": batch["box"][:, 2] - batch["box"][:, 0]}, num_cpus=0.5)
    (row,) = wide.take_all()
    box = of_input(finished, "portrait.jpg")["box"][0].as_py()
    assert row["width"] == pytest.approx(box[2] - box[0])

    everything = read_faces(str(finished), ["uri", "frame_index", "landmarks", "light", "identity"]).take_all()
    assert len(everything) == len(faces_of(finished))
    assert everything[0]["landmarks"].shape == (478, 3)
    assert everything[0]["light"].shape == (9, 3)
    assert {row["identity"] for row in everything} - {None}


def test_pictures_become_tensors_on_demand_and_nulls_are_not_a_number(finished):
    rows = faces_of(finished).slice(0, 3).select(["crop", "mask", "identity_vector", "uri"])
    plain_batch, decoded = tensors(rows, {}), tensors(rows, {}, pictures=True)
    assert decoded["crop"].shape == (3, 512, 512, 3)
    assert decoded["mask"].shape == (3, 512, 512)
    assert decoded["crop"].dtype == np.uint8
    assert plain_batch["crop"][0][:2] == b"\xff\xd8"
    known = [vector is not None for vector in rows["identity_vector"].to_pylist()]
    assert (~np.isnan(plain_batch["identity_vector"]).any(1)).tolist() == known
