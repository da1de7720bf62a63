"""`rigface export`: files of other programs, continued, limited, refused."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipelines.export.config import ExportConfig
from pipelines.export.csv_columns import INPUT_COLUMNS, openface_table, pyfeat_table
from pipelines.export.job import export
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.face.detection.mediapipe import BLENDSHAPES
from rigface.face.geometry.rotation import to_degrees
from rigface.image import decode
from rigface.storage.store import Store
from rigface.study.head_pose import YAW, head_turns
from tests.pipelines.conftest import faces_of
from tests.pipelines.made_faces import dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Nine people who turn and smile, with MediaPipe's scores."""
    folder = tmp_path_factory.mktemp("made")
    dataset(folder, people=9, scores=BLENDSHAPES)
    return folder


def quiet(text: str) -> None:
    pass


def run(faces, dest, to, **options):
    return export(ExportConfig(str(faces), str(dest), to, **options), quiet)


def test_openface_csvs_have_the_names_and_units_that_its_users_parse(finished, tmp_path):
    counts = run(finished, tmp_path, "openface")
    faces = faces_of(finished)
    assert counts == {"inputs": len(set(faces["uri"].to_pylist())), "faces": len(faces)}
    (path,) = (tmp_path / "csv").glob("portrait-*.csv")
    (row,) = csv.DictReader(io.StringIO(path.read_text()))
    assert list(row)[:5] == ["frame", "face_id", "timestamp", "confidence", "success"]
    assert {"gaze_angle_x", "pose_Tz", "pose_Rx", "x_67", "y_0"} <= row.keys()
    assert not [name for name in row if name.startswith("AU")]  # the fake detector has scores of its own
    assert (row["frame"], row["success"]) == ("1", "1")
    of = next(r for r in faces.to_pylist() if r["uri"].endswith("portrait.jpg"))
    x0, y0, x1, y1 = of["box"]
    points = np.array([[float(row[f"{axis}_{i}"]) for axis in "xy"] for i in range(68)])
    assert ((points > (x0 - 1, y0 - 1)) & (points < (x1 + 1, y1 + 1))).all()  # frame px


def test_pyfeat_csvs_count_frames_from_0_and_turn_in_radians(finished, tmp_path):
    run(finished, tmp_path, "pyfeat", limit=2)
    paths = sorted((tmp_path / "csv").glob("*.csv"))
    assert len(paths) == 2
    rows = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    assert {"FaceRectX", "FaceScore", "Pitch", "Roll", "Yaw", "x_0", "Identity", "input"} <= rows[0].keys()
    key = (rows[0]["input"], int(rows[0]["frame"]))
    turn = next(r["head_rotation"] for r in faces_of(finished).to_pylist() if (r["uri"], r["frame_index"]) == key)
    assert float(rows[0]["Yaw"]) == pytest.approx(np.radians(to_degrees(head_turns(np.array([turn])))[0, 0]), abs=1e-4)
    kept = paths[0].stat().st_mtime_ns
    assert run(finished, tmp_path, "pyfeat", limit=2) == {}
    assert paths[0].stat().st_mtime_ns == kept


def test_units_are_given_on_the_scale_of_each_program_and_only_those_that_are_measured(made):
    faces = Faces(str(made))
    rows = faces.table(faces.parts[0], INPUT_COLUMNS)
    openface, pyfeat = (make(rows, faces.detector, 800, 600) for make in (openface_table, pyfeat_table))
    assert openface["AU12_r"].to_pylist() == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert openface["AU12_c"].to_pylist() == [0, 0, 0, 1, 1]
    assert pyfeat["AU12"].to_pylist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert {"AU01_r", "AU45_r", "AU28_c"} <= set(openface.column_names)
    assert not {"AU06_r", "AU09_r", "AU23_r", "AU06", "AU09", "AU11"} & {*openface.column_names, *pyfeat.column_names}
    assert openface["pose_Ry"].to_pylist() == pytest.approx(
        np.radians(YAW * np.array([0, -6, -12, -18, -24])), abs=1e-3
    )  # its sign


def test_a_hub_folder_has_a_card_features_and_images_and_no_person_in_two_splits(made, tmp_path):
    counts = run(made, tmp_path, "huggingface", held_out_fraction=0.4)
    assert counts["faces"] == 45
    tables = {split: pq.read_table(next((tmp_path / "data").glob(f"{split}-*"))) for split in ("train", "test")}
    people = [set(table["identity"].to_pylist()) for table in tables.values()]
    assert people[0]
    assert people[1]
    assert not people[0] & people[1]
    train = tables["train"]
    features = json.loads(train.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == train.column_names
    assert features["crop"] == {"_type": "Image"}
    assert features["landmarks"] == {
        "feature": {"dtype": "float32", "_type": "Value"},
        "length": 1434,
        "_type": "Sequence",
    }
    assert decode(train["crop"][0].as_py()["bytes"]).shape == (512, 512, 3)
    assert train["au12"].null_count == 0
    assert "identity_vector" not in train.column_names
    text = (tmp_path / "README.md").read_text()
    assert "path: data/test-*.parquet" in text
    assert f"{len(train)} in `train`" in text
    assert run(made, tmp_path, "huggingface", held_out_fraction=0.4) == {}


def test_webdataset_shards_have_a_sample_for_each_face(made, tmp_path):
    assert run(made, tmp_path, "webdataset", limit=12, held_out_fraction=0)["faces"] == 10  # 2 of the 12 rows failed
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as tar:
        names = tar.getnames()
        row = json.load(tar.extractfile(names[2]))
        crop = tar.extractfile(names[0]).read()
    assert len(names) == 30
    assert [name.partition(".")[2] for name in names[:3]] == ["jpg", "mask.png", "json"]
    assert len({name.partition(".")[0] for name in names}) == 10
    assert (row["uri"], row["frame_index"], len(row["shape"])) == ("/clip0.mp4", 0, 40)
    assert decode(crop).shape == (512, 512, 3)


def test_edit_pairs_are_pictures_of_one_name_with_an_instruction_and_differences(made, tmp_path):
    counts = run(made, tmp_path, "edit-pairs", limit=20, held_out_fraction=0.4)
    pairs = ds.dataset(tmp_path / "pairs", format="parquet").to_table().to_pylist()
    assert 0 < counts["pairs"] == len(pairs) <= 20
    splits = {split: {p["identity"] for p in pairs if p["split"] == split} for split in ("train", "test")}
    assert splits["train"]
    assert not splits["train"] & splits["test"]
    for pair in pairs:
        place = tmp_path / pair["split"]
        said = (place / "target" / f"{pair['name']}.txt").read_text()
        assert said == pair["instruction"]
        side = "left" if pair["d_yaw_deg"] > 0 else "right"
        assert f"turn the head {abs(pair['d_yaw_deg']):.0f} degrees to their {side}" in said
        assert pair["d_yaw_deg"] == pytest.approx(
            YAW * 6 * (pair["target_frame_index"] - pair["source_frame_index"]), abs=0.1
        )
        for end in ("source", "target"):
            assert decode((place / end / f"{pair['name']}.jpg").read_bytes()).shape == (512, 512, 3)
    backends = json.loads((tmp_path / "simpletuner.json").read_text())
    assert backends[0]["conditioning_data"] == [backends[1]["id"]]
    assert run(made, tmp_path, "edit-pairs", limit=20, held_out_fraction=0.4) == {}


def test_the_background_of_a_pair_stands_still(made, tmp_path):
    run(made, tmp_path, "edit-pairs", limit=3)
    (name, *_) = sorted((tmp_path / "train" / "source").glob("*.jpg"))
    source, target = (decode((tmp_path / "train" / end / name.name).read_bytes()) for end in ("source", "target"))
    assert np.abs(source.astype(int) - target).mean() < 4  # the made faces are a scene alone


def test_another_export_is_refused_and_overwritten_on_demand(made, tmp_path):
    run(made, tmp_path, "webdataset", limit=6)
    with pytest.raises(PlanError, match="other settings"):
        run(made, tmp_path, "huggingface")
    run(made, tmp_path, "edit-pairs", limit=5, overwrite=True)
    assert not (tmp_path / "shards").exists()
    with pytest.raises(PlanError, match="the dataset itself"):
        run(made, made, "webdataset")
    with pytest.raises(PlanError, match="no faces"):
        run(tmp_path, tmp_path / "x", "webdataset")


def test_pairs_need_scores_that_instructions_can_be_written_from(finished, tmp_path):
    with pytest.raises(PlanError, match="MediaPipe"):
        run(finished, tmp_path, "edit-pairs")


def test_dry_run_writes_nothing(made, tmp_path):
    for to in ("webdataset", "edit-pairs"):
        assert run(made, tmp_path / to, to, dry_run=True) == {}
        assert not [p for p in (tmp_path / to).rglob("*") if p.is_file() and ".rigface" not in p.parts]


def test_the_files_on_s3_are_those_on_a_disk(made, tmp_path, bucket):
    run(made, f"{bucket}/export", "webdataset", limit=12)
    run(made, tmp_path, "webdataset", limit=12)
    here = {p.name: p.read_bytes() for p in (tmp_path / "shards").iterdir()}
    store = Store(f"{bucket}/export")
    assert {path.rpartition("/")[2]: store.read(path) for path in store.paths("shards")} == here
