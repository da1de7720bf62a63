"""`rigface convert`: new coefficients from stored crops, all else copied."""

import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cli.main import main
from pipelines.convert.config import ConvertConfig
from pipelines.convert.job import NEW_QUALITY, convert
from pipelines.extract.config import Settings, debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.layout import parquet
from rigface import assets, schema
from rigface.errors import PlanError
from rigface.face.detection.factory import load_detector
from rigface.face.head.open_head import OpenHead
from rigface.face.steps import align
from rigface.image import encode_jpeg
from rigface.storage.store import Store
from rigface.testing import fakes
from rigface.testing.official import flame, networks
from rigface.types import FaceParams
from rigface.video.decode import read_frames
from tests.pipelines.made_faces import dataset


@pytest.fixture
def faces(tmp_path):
    dataset(tmp_path / "faces", people=2)
    return tmp_path / "faces"


def silent(text):
    pass


def run(faces, out, reconstruct="fake", **options):
    return convert(ConvertConfig(str(faces), str(out), reconstruct, **options), silent)


def table(folder, number):
    return pq.read_table(folder / "faces" / f"{number:02x}" / f"{number:02x}unit.parquet")


def test_coefficients_are_new_and_other_columns_copied(faces, tmp_path):
    assert run(faces, tmp_path / "out") == {"rows": 12, "units": 2}
    before, after = table(faces, 0), table(tmp_path / "out", 0)
    assert schema.head_of(after.schema) == fakes.HEAD
    same = replace(schema.detector_of(before.schema), reconstructor=fakes.FakeReconstructor().version)
    assert schema.detector_of(after.schema) == same
    params = {*FaceParams.__dataclass_fields__}
    for name in set(before.column_names) - params - {*NEW_QUALITY}:
        assert after[name].to_pylist() == before[name].to_pylist(), name
    good = after.slice(0, 5)
    assert schema.params_of(good).shape.shape == (5, 2)
    assert good["landmark_residual"].to_pylist() == [0.0] * 5
    assert good["is_profile"].to_pylist() == [abs(yaw) > 60 for yaw in good["yaw_deg"].to_pylist()]


def test_row_that_failed_before_keeps_its_reason_and_no_coefficients(faces, tmp_path):
    run(faces, tmp_path / "out")
    row = table(tmp_path / "out", 0).slice(5, 1).to_pylist()[0]
    assert row["status"] == "error"
    assert row["shape"] is row["yaw_deg"] is None


def test_metadata_says_which_columns_are_of_which_program(faces, tmp_path):
    run(faces, tmp_path / "out")
    converted = json.loads((tmp_path / "out" / "rigface.json").read_text())["converted"]
    assert converted["from"].endswith("/faces")
    sources = json.loads(table(tmp_path / "out", 0).schema.metadata[b"rigface.sources"])
    assert sources == converted["columns"]
    assert {"crop", "landmarks", "confidence", "mask"} <= set(sources["extract"])
    assert {"shape", "light", "yaw_deg", "landmark_residual"} <= set(sources["fake"])
    assert set(sources["extract"]) | set(sources["fake"]) == set(table(tmp_path / "out", 0).column_names)


def test_second_run_converts_new_parts_alone(faces, tmp_path):
    run(faces, tmp_path / "out")
    assert run(faces, tmp_path / "out") == {}
    dataset(tmp_path / "more", people=3)
    (tmp_path / "more" / "faces" / "02").rename(faces / "faces" / "02")
    assert run(faces, tmp_path / "out") == {"rows": 6, "units": 1}


def test_output_of_another_conversion_is_refused(faces, tmp_path):
    run(faces, tmp_path / "out")
    with pytest.raises(PlanError, match="holds another conversion"):
        run(faces, tmp_path / "out", shape=10)


def test_extract_does_not_continue_a_converted_dataset(faces, tmp_path):
    run(faces, tmp_path / "out")
    settings = debug((str(faces),), str(tmp_path / "out")).settings
    with pytest.raises(PlanError, match="an output of `convert`, not of `extract`"):
        FaceDataset(Store(str(tmp_path / "out"))).check(settings, fakes.HEAD, fakes.DETECTOR, overwrite=False)


def test_reconstructor_that_does_not_fit_the_landmarks_is_refused(faces, tmp_path):
    with pytest.raises(PlanError, match="this detector gives 478 landmarks and 1"):
        run(faces, tmp_path / "out", "fit", head="open")
    with pytest.raises(PlanError, match="no reconstructor 'dcea'"):
        run(faces, tmp_path / "out", "dcea")
    assert not (tmp_path / "out").exists()


def test_profile_of_the_first_dataset_does_not_return():
    stored = {"settings": asdict(Settings(profile="rigface"))}
    settings = ConvertConfig("in", "out", "fit", head="open").settings(stored)
    assert (settings.reconstructor, settings.head, settings.expression_codes) == ("fit", "open", "none")
    assert (settings.detector, settings.parser) == ("mediapipe", "bisenet")


def test_shared_skin_is_the_median_of_a_persons_tracks_and_light_makes_up_for_it(tmp_path):
    dataset(tmp_path / "faces", people=3, identity="ann")
    head = OpenHead.load()
    paths = [f"faces/{k:02x}/{k:02x}unit.parquet" for k in range(3)]
    store = Store(str(tmp_path / "faces"))
    for path, brightness in zip(paths, (0.1, 0.2, 0.5)):
        before = store.table(path)
        albedo = head.with_skin_colour(np.zeros((6, head.spec.albedo)), np.full((6, 3), brightness))
        at = before.schema.get_field_index("albedo")
        column = schema.column(albedo, head.spec.albedo).cast(before.schema.field(at).type)
        store.publish(path, parquet(before.set_column(at, before.schema.field(at), column)))
    assert main(["convert", store.uri, str(tmp_path / "out"), "--shared-skin"]) == 0
    for k, path in enumerate(paths):
        old, new = store.table(path), table(tmp_path / "out", k)
        assert head.skin_colour(schema.params_of(new).albedo) == pytest.approx(np.full((6, 3), 0.2), rel=1e-4)
        factor = 0.2 / (0.1, 0.2, 0.5)[k]
        assert schema.params_of(new).light * factor == pytest.approx(schema.params_of(old).light, rel=1e-4)
        kept = [name for name in old.column_names if name not in ("albedo", "light")]
        assert new.select(kept).equals(old.select(kept))
    with pytest.raises(PlanError, match="--reconstruct first"):
        ConvertConfig("in", "out", "fit", shared_skin=True)


def test_folder_without_faces_is_refused(tmp_path):
    with pytest.raises(PlanError, match="no faces/ here"):
        run(tmp_path, tmp_path / "out")


@pytest.fixture
def real(tmp_path, fixtures):
    """Two faces of a clip with MediaPipe's landmarks and blendshapes, without coefficients."""
    detector = load_detector("mediapipe")
    frames = [frame.image for frame in read_frames(str(fixtures / "clip.mp4"), fps=1)][:2]
    cut = align(frames, [detector(frame)[0] for frame in frames])
    spec = detector.spec
    columns = {
        "uri": ["clip.mp4"] * 2,
        "frame_index": [0, 30],
        "time_s": [0.0, 1.0],
        "track": [0, 0],
        "status": ["ok"] * 2,
        "box": schema.column(cut.boxes, 4),
        "frame_to_crop": schema.column(cut.frame_to_crop, 6),
        "landmarks": schema.column(cut.landmarks, 478 * 3),
        "blendshapes": schema.column(cut.blendshapes, len(spec.blendshape_names)),
        "crop": [encode_jpeg(crop) for crop in cut.crops],
    }
    wanted = schema.faces_schema(OpenHead.load().spec, spec)
    Store(str(tmp_path / "real")).publish("faces/00/00unit.parquet", parquet(schema.table_of(columns, wanted)))
    return tmp_path / "real"


def test_deca_and_d3dfr_fill_their_columns(real, tmp_path, monkeypatch):
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(tmp_path / "assets"))
    flame.write_flame(tmp_path / "assets" / "flame", steps=0, texture=False)
    networks.write_deca(tmp_path / "assets" / "deca" / "deca_model.tar")
    networks.write_d3dfr(tmp_path / "assets" / "d3dfr" / "d3dfr_res50_nofc.pth")
    run(real, tmp_path / "out", "deca", expression_codes="d3dfr")
    after = table(tmp_path / "out", 0)
    head = schema.head_of(after.schema)
    params = schema.params_of(after)
    assert (head.name, params.shape.shape, params.expression.shape) == ("flame", (2, 100), (2, 50))
    assert (params.shape[0] == params.shape[1]).all()  # one track
    assert params.bfm_expression.shape == (2, 64)
    assert np.abs(params.bfm_expression).max() > 0.1
    assert max(after["landmark_residual"].to_pylist()) < 0.3  # the stand-in answers with a plain frontal face
    detector = schema.detector_of(after.schema)
    assert detector.reconstructor.startswith("deca-")
    assert detector.expression_codes.startswith("d3dfr-")
    sources = json.loads(after.schema.metadata[b"rigface.sources"])
    assert sources["d3dfr"] == ["bfm_expression"]
    assert "bfm_expression" not in sources["deca"]
