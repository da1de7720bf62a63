"""Parsers by name: a tiny SegFormer, and BiSeNet with made-up weights."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage.data

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.face.detection.factory import load_detector
from rigface.face.geometry import alignment
from rigface.face.networks.bisenet import CLASSES
from rigface.face.reconstruction.parsers import load_parser
from rigface.face.reconstruction.segmentation import person_mask
from rigface.testing.official.networks import write_bisenet
from tests.rigface.face.made_weights import tiny_segformer

SIZE = 512
POINTS = np.array([[200.0, 250.0], [300.0, 250.0], [250.0, 350.0]])


@pytest.fixture(scope="module")
def bisenet_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    (folder / "bisenet").mkdir()
    write_bisenet(folder / "bisenet" / "79999_iter.pth")
    return folder


@pytest.fixture(scope="module")
def crop(fixtures):
    return np.load(fixtures / "official" / "bisenet.npz")["picture"]


def test_segformer_is_loaded_from_its_folder(tmp_path):
    tiny_segformer(tmp_path / "net", ["background", "skin", "l_eye", "eye_g", "hair", "cloth", "neck_l"])
    parser = load_parser("segformer", tmp_path / "net")
    crop = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = parser(crop, POINTS, inside=(0, 0, 512, 300))
    assert mask.shape == (SIZE, SIZE)
    assert (mask[:300] == 255).all()  # its bias says hair everywhere, and hair is the person
    assert not mask[300:].any()
    half = parser(crop[::2, ::2], POINTS / 2, inside=(0, 0, 256, 150), size=SIZE)
    assert (half == mask).all()


def test_segformer_normalisation_is_read_from_its_folder(tmp_path):
    tiny_segformer(tmp_path, ["background", "skin", "hair"])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [2.0] * 3}))
    parser = load_parser("segformer", tmp_path)
    assert parser._mean.flatten().tolist() == pytest.approx([0.1] * 3)
    assert parser._spread.flatten().tolist() == [2.0] * 3


def test_network_without_face_labels_is_refused(tmp_path):
    tiny_segformer(tmp_path, ["road", "car", "sky"])
    with pytest.raises(MissingAsset, match=r"no face parser.*road"):
        load_parser("segformer", tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    tiny_segformer(tmp_path, ["background", "skin", "hair"])
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(MissingAsset, match=r"no model\.safetensors"):
        load_parser("segformer", tmp_path)


def test_load_parser_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("RIGFACE_ASSETS", raising=False)
    assert load_parser() is person_mask
    with pytest.raises(MissingAsset, match="SegFormer"):
        load_parser("segformer", tmp_path)
    with pytest.raises(ValueError, match="colours, selfie, segformer, bisenet"):
        load_parser("magic")
    with pytest.raises(ValueError, match="cannot tell clothes from background"):
        load_parser(everything=True)


def test_segformer_counts_clothes_as_everything_only(tmp_path):
    tiny_segformer(tmp_path, ["background", "skin", "hair", "cloth"])
    assert load_parser("segformer", tmp_path)._person.tolist() == [False, True, True, False]
    assert load_parser("segformer", tmp_path, everything=True)._person.tolist() == [False, True, True, True]


def test_bisenet_masks_follow_its_labels(bisenet_folder, crop):
    person, everything = (load_parser("bisenet", bisenet_folder, everything=e) for e in (False, True))
    labels = person.labels(crop)
    assert labels.shape == (SIZE, SIZE)
    assert 0.02 < (labels == 0).mean() < 0.98
    assert np.array_equal(everything(crop, POINTS), np.where(labels >= 1, 255, 0))
    worn = (labels != 0) & (labels != CLASSES.index("cloth"))
    assert np.array_equal(person(crop, POINTS), np.where(worn, 255, 0))
    assert person.version.startswith("bisenet-")


def test_bisenet_masks_end_with_the_frame(bisenet_folder, crop):
    parser = load_parser("bisenet", bisenet_folder, everything=True)
    half = parser(crop[::2, ::2], POINTS / 2, inside=(0, 0, 256, 150), size=SIZE)
    assert half.shape == (SIZE, SIZE)
    assert half[:300].any()
    assert not half[300:].any()


def test_another_file_under_bisenets_name_is_refused(tmp_path):
    (tmp_path / "79999_iter.pth").write_text("not found")
    with pytest.raises(BadCheckpoint, match=r"79999_iter\.pth is damaged"):
        load_parser("bisenet", tmp_path)


@pytest.fixture(scope="module")
def astronaut():
    """Her crop and its landmarks."""
    (face,) = load_detector()(skimage.data.astronaut())
    affine = alignment.frame_to_crop(face.box)
    return alignment.crop(skimage.data.astronaut(), affine), alignment.apply(affine, face.landmarks)


def test_selfie_mask_has_hair_and_neck_and_no_clothes(astronaut):
    crop, landmarks = astronaut
    parser = load_parser("selfie")
    mask = parser(crop, landmarks, inside=(0, 0, 512, 500))
    assert (mask.shape, mask.dtype) == ((SIZE, SIZE), np.uint8)
    assert parser.version == "selfie-8d13b7fae74a"
    assert not mask[: SIZE // 4, :40].any()  # the wall
    assert (mask[60:120, 200:340] == 255).all()  # her hair
    assert (mask[415:430, 230:290] > 200).all()  # her neck
    assert mask[490:500, 100:400].mean() < 60  # her collar
    assert not mask[500:].any()  # outside the frame
    assert ((mask > 20) & (mask < 235)).mean() > 0.005  # soft edges
    everything = load_parser("selfie", everything=True)(crop, landmarks)
    assert (everything[490:500, 100:400] == 255).all()


def test_selfie_masks_of_several_threads_do_not_mix(astronaut):
    crop, landmarks = astronaut
    parser, mirrored = load_parser("selfie"), np.ascontiguousarray(crop[:, ::-1])
    flipped = landmarks * [-1, 1, 1] + [SIZE, 0, 0]
    cases = [(crop, landmarks), (mirrored, flipped)] * 4
    alone = [parser(*case) for case in cases[:2]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda case: parser(*case), cases))
    assert all((mask == alone[k % 2]).all() for k, mask in enumerate(together))
