"""Judges on photographs: NASA's astronaut, and a clip of a man who is neutral first and smiles later."""

from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest
import skimage.data
from onnx import TensorProto, helper

from rigface import assets
from rigface.errors import MissingAsset
from rigface.judges.identity import OnnxIdentity
from rigface.judges.panel import Judges

CLIP = Path(__file__).parents[2] / "fixtures" / "clip.mp4"


@pytest.fixture(scope="module")
def judges():
    return Judges.load()


@pytest.fixture(scope="module")
def astronaut():
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def frames():
    with av.open(str(CLIP)) as clip:
        return [frame.to_ndarray(format="rgb24") for k, frame in enumerate(clip.decode(video=0)) if k in (0, 36)]


@pytest.fixture
def identity_file(tmp_path):
    """An identity network of twelve numbers: the face's mean colours in 2 x 2 fields."""
    path = tmp_path / "My Net-2.onnx"
    nodes = [
        helper.make_node("AveragePool", ["face"], ["fields"], kernel_shape=[56, 56], strides=[56, 56]),
        helper.make_node("Flatten", ["fields"], ["vector"]),
    ]
    face = helper.make_tensor_value_info("face", TensorProto.FLOAT, ["N", 3, 112, 112])
    vector = helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["N", 12])
    graph = helper.make_graph(nodes, "identity", [face], [vector])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def numbers(reading):
    return np.array([reading.yaw_deg, reading.pitch_deg, reading.roll_deg, reading.smile, reading.age_years])


def test_astronaut_is_read(judges, astronaut):
    reading = judges(astronaut)
    assert abs(reading.yaw_deg) < 8
    assert 0 < reading.roll_deg < 8  # her head leans to the viewer's right
    assert reading.smile > 0.9
    assert 20 < reading.age_years < 50


def test_reading_is_the_same_every_time(judges, astronaut):
    assert np.array_equal(numbers(judges(astronaut)), numbers(Judges.load()(astronaut)))


def test_mirror_image_flips_yaw_and_roll_alone(judges, astronaut):
    there, back = numbers(judges(astronaut)), numbers(judges(np.ascontiguousarray(astronaut[:, ::-1])))
    assert back[:3] == pytest.approx(there[:3] * (-1, 1, -1), abs=2)
    assert back[3] == pytest.approx(there[3], abs=0.02)
    assert back[4] == pytest.approx(there[4], abs=3)


def test_picture_turned_by_ten_degrees_has_ten_degrees_more_roll(judges, astronaut):
    turn = cv2.getRotationMatrix2D((220, 120), -10, 1)  # clockwise on the screen
    turned = cv2.warpAffine(astronaut, turn, (512, 512))
    assert judges(turned).roll_deg - judges(astronaut).roll_deg == pytest.approx(10, abs=2.5)


def test_smile_is_higher_for_the_smiling_frame(judges, frames):
    neutral, smiling = (judges(frame).smile for frame in frames)
    assert neutral < 0.2
    assert smiling > 0.8


def test_size_of_the_picture_changes_the_reading_by_the_noise_alone(judges, astronaut):
    small = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    assert numbers(judges(small))[:4] == pytest.approx(numbers(judges(astronaut))[:4], abs=2.5)


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (300, 40)])
def test_picture_without_a_face_reads_nothing(judges, shape):
    assert judges(np.full((*shape, 3), 128, np.uint8)) is None


def test_columns_are_named_after_networks_and_versions_after_files(judges, identity_file):
    assert judges.networks == {"pose": "centerface", "smile": "fer", "age": "age_gender"}
    assert all(version[-12:].isalnum() for version in judges.versions.values())
    assert judges.missing == ()
    assert Judges.load(identity_file).networks["identity"] == "my_net_2"


def test_identity_network_by_path_reads_an_aligned_face(identity_file, astronaut):
    judges = Judges.load(identity_file)
    vector = judges(astronaut).identity
    assert vector.shape == (12,)
    assert np.linalg.norm(vector) == pytest.approx(1)
    shifted = np.roll(astronaut, (9, 14), (0, 1))
    assert vector @ judges(shifted).identity > 0.995  # the same face is cut out


def test_identity_file_that_is_no_network_is_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(MissingAsset, match=r"bad\.onnx is no ONNX network"):
        OnnxIdentity(tmp_path / "bad.onnx")
    with pytest.raises(MissingAsset, match=r"gone\.onnx is no file"):
        OnnxIdentity(tmp_path / "gone.onnx")


@pytest.mark.parametrize(("asset", "left"), [("centerface", set()), ("fer_smile", {"pose", "age"})])
def test_missing_network_leaves_its_numbers_out_and_says_so(monkeypatch, astronaut, asset, left):
    monkeypatch.setitem(assets.ASSETS, asset, assets.Asset(path="judges/none.onnx", licence="MIT", how="see there"))
    judges = Judges.load()
    assert set(judges.networks) == left
    assert len(judges.missing) == 1
    assert "judges/none.onnx" in judges.missing[0]
    reading = judges(astronaut)
    assert (reading is None) if not left else np.isnan(reading.smile)
