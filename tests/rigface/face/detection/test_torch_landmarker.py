"""MediaPipe's landmarker in torch, against MediaPipe's own on the same pictures."""

import csv

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from rigface.face.detection.factory import load_detector
from rigface.face.geometry import alignment
from rigface.types import CROP_PX

MAX_PX, MAX_SCORE = 0.1, 0.005  # of the 512 px crop; measured: 0.03 and 0.002


@pytest.fixture(scope="module")
def library():
    return load_detector("mediapipe")


@pytest.fixture(scope="module")
def networks():
    return load_detector("mediapipe", device="cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """One face; two in a wide picture, turned; a large picture; nobody."""
    astronaut = skimage.data.astronaut()
    face = astronaut[:256, 96:352]
    turn = cv2.getRotationMatrix2D((256, 128), 17, 1)
    pair = cv2.warpAffine(np.concatenate([face, face[:, ::-1]], axis=1), turn, (540, 270))
    return [astronaut, pair, cv2.resize(astronaut, (2300, 2100)), skimage.data.coffee()]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        scale = np.linalg.norm(alignment.frame_to_crop(theirs.box, CROP_PX)[0, :2])
        assert np.abs(ours.landmarks - theirs.landmarks).max() * scale < MAX_PX
        assert np.abs(ours.blendshapes - theirs.blendshapes).max() < MAX_SCORE
        assert ours.score == pytest.approx(theirs.score, abs=MAX_SCORE)


def test_landmarks_and_scores_are_those_of_mediapipe(library, networks, pictures):
    for picture, faces in zip(pictures, (1, 2, 1, 0)):
        found = library(picture, second_look=False)
        assert len(found) == faces
        assert_same(networks(picture, second_look=False), found)


def test_second_look_finds_what_mediapipe_finds(library, networks):
    wall = np.random.default_rng(0).integers(90, 110, (500, 700, 3)).astype(np.uint8)
    wall[300:364, 401:465] = cv2.resize(skimage.data.astronaut()[:256, 100:356], (64, 64), interpolation=cv2.INTER_AREA)
    (face,) = networks(wall)
    assert_same([face], library(wall))


def test_prepared_pictures_give_what_each_gives_by_itself(networks, pictures, monkeypatch):
    alone = [networks(picture, second_look=False) for picture in pictures]
    networks.prepare(pictures)
    monkeypatch.setattr(networks._landmarker, "faces", None)  # nothing is looked at again
    for picture, expected in zip(pictures, alone):
        assert_same(networks(picture, second_look=False), expected)


def test_portraits_of_other_people_agree(library, networks, shared):
    with open(shared / "data/manifest.csv") as rows:
        files = [row["file"] for row in csv.DictReader(rows) if row["kind"] == "image"]
    for file in files[::40]:
        picture = np.asarray(Image.open(shared / "data" / file).convert("RGB"))
        assert_same(networks(picture, second_look=False), library(picture, second_look=False))
