"""The steps from detections to coefficients, masks and quality, on drawn discs."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from rigface.face.geometry.rigface_crop import rigface_frame_to_crop
from rigface.face.steps import align, assess, reconstruct, segment
from rigface.testing.fakes import HEAD, FakeDetector, FakeReconstructor, fake_mask, picture

IMAGES = [picture([0.0]), picture([0.6], size=(200, 150))]
DETECTIONS = [FakeDetector()(image)[0] for image in IMAGES]


def test_align_cuts_each_detection_from_its_own_image():
    faces = align(IMAGES, DETECTIONS)
    assert len(faces) == 2
    assert [crop[270, 256].argmax() for crop in faces.crops] == [0, 2]  # red, blue
    assert faces.frame_to_crop.shape == (2, 2, 3)
    assert faces.landmarks.shape == (2, 478, 3)
    assert faces.landmarks.dtype == np.float32
    assert faces.blendshapes.shape == (2, 3)


def test_align_gives_no_blendshapes_if_one_face_has_none():
    assert align(IMAGES, [DETECTIONS[0], replace(DETECTIONS[1], blendshapes=None)]).blendshapes is None


def test_align_rejects_an_empty_box():
    with pytest.raises(ValueError, match="box"):
        align(IMAGES[:1], [replace(DETECTIONS[0], box=np.zeros(4, np.float32))])


def test_rule_of_the_released_code_cuts_by_the_finders_box():
    box = np.float32([10, 20, 50, 70])
    found = replace(DETECTIONS[0], finder_box=box)
    faces = align([IMAGES[0]] * 2, [found, DETECTIONS[0]], "rigface")
    assert np.allclose(faces.frame_to_crop[0], rigface_frame_to_crop(box))
    assert np.array_equal(faces.frame_to_crop[1], align(IMAGES[:1], DETECTIONS[:1]).frame_to_crop[0])
    assert np.array_equal(align(IMAGES[:1], [found]).crops[0], faces.crops[1])  # the own rule has no use for that box


def test_reconstruct_shares_nothing_without_tracks():
    faces = align(IMAGES, DETECTIONS)
    shape = reconstruct(FakeReconstructor(), faces).params.shape
    assert shape.shape == (2, HEAD.shape)
    assert not np.array_equal(*shape)
    assert np.array_equal(*reconstruct(FakeReconstructor(), faces, np.zeros(2, int)).params.shape)


def test_segment_and_assess_scale_landmarks_to_a_smaller_crop():
    faces = align(IMAGES, DETECTIONS)
    half = replace(faces, crops=[cv2.resize(c, (256, 256), interpolation=cv2.INTER_AREA) for c in faces.crops])
    arguments = []

    def parser(crop, landmarks, inside, size):
        arguments.append((landmarks, np.array(inside), size))
        return fake_mask(crop)

    for batch in (faces, half):
        assert segment(parser, batch, 1, IMAGES[1].shape[:2]).shape == (512, 512)
    (landmarks, inside, size), (half_landmarks, half_inside, half_size) = arguments
    assert size == half_size == 512
    np.testing.assert_allclose(half_landmarks, landmarks / 2)
    np.testing.assert_allclose(half_inside, inside / 2)

    mask = segment(fake_mask, half, 1, IMAGES[1].shape[:2])
    quality = assess(half, 1, mask, np.zeros(3), np.array([0.01, np.nan, 0.0]))
    assert quality.face_size_px == pytest.approx(28, abs=1)
    assert quality.landmark_residual == pytest.approx(0.01)
