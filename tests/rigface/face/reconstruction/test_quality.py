"""Quality measures against known values, confidence, and the suspect flag."""

from dataclasses import fields

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from rigface.face.detection.factory import load_detector
from rigface.face.geometry import alignment
from rigface.face.reconstruction.quality import is_grey, is_suspect, measure_quality, sharpness, skin_colour
from rigface.image import decode, linear_to_srgb

GOOD = {
    "yaw_deg": 0.0,
    "pitch_deg": 0.0,
    "roll_deg": 0.0,
    "landmark_residual": 0.002,
    "photometric_residual": 0.03,
    "occlusion": 0.05,
}


@pytest.fixture(scope="module")
def detector():
    return load_detector()


def cut(picture, face):
    affine = alignment.frame_to_crop(face.box)
    return alignment.crop(picture, affine), alignment.apply(affine, face.landmarks)


@pytest.fixture(scope="module")
def woman(detector):
    """Crop and landmarks of NASA's astronaut, from a picture enlarged to a common size."""
    picture = skimage.data.astronaut()
    (face,) = detector(picture)
    return cut(picture, face)


BOX = np.array([10.0, 20.0, 150.0, 180.0])


def test_good_face_has_high_quality(woman):
    q = measure_quality(*woman, BOX, 0.93, np.full((512, 512), 255, np.uint8), **GOOD)
    assert q.confidence > 0.6
    assert q.face_size_px == 160
    assert 0.2 < q.exposure < 0.7
    assert 20 < q.skin_tone_ita_deg < 90
    assert not any([q.is_profile, q.is_tiny, q.is_blurred, q.is_grey, q.is_suspect])
    assert q.landmark_residual == 0.002
    assert q.yaw_deg == 0


@pytest.mark.parametrize(
    ("worse", "size", "score"),
    [
        ({"yaw_deg": -70.0}, 160, 0.93),
        ({"pitch_deg": 50.0}, 160, 0.93),
        ({"landmark_residual": 0.02}, 160, 0.93),
        ({"photometric_residual": 0.15}, 160, 0.93),
        ({"occlusion": 0.5}, 160, 0.93),
        ({}, 40, 0.93),
        ({}, 160, 0.7),
    ],
    ids=["profile", "pitch", "landmarks", "colours", "occlusion", "size", "score"],
)
def test_confidence_falls_with_each_defect(woman, worse, size, score):
    best = measure_quality(*woman, np.array([0, 0, 160, 160]), 0.93, **GOOD)
    q = measure_quality(*woman, np.array([0, 0, size, size]), score, **(GOOD | worse))
    assert q.confidence < 0.8 * best.confidence
    assert q.is_profile == (worse.get("yaw_deg") == -70)
    assert q.is_tiny == (size == 40)


def test_failed_fit_gives_nan_and_lower_confidence(woman):
    q = measure_quality(*woman, BOX, 0.93)
    assert np.isnan([q.landmark_residual, q.photometric_residual, q.occlusion, q.yaw_deg]).all()
    assert 0 < q.confidence < measure_quality(*woman, BOX, 0.93, **GOOD).confidence
    assert np.isfinite([q.confidence, q.landmark_confidence, q.sharpness, q.exposure, q.skin_tone_ita_deg]).all()
    assert not q.is_profile
    assert not q.is_suspect
    assert measure_quality(*woman, BOX, 0.93, landmark_residual=np.nan).confidence == q.confidence


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-800, 800),
    st.floats(0.01, 900),
    st.floats(0, 1),
    st.sampled_from([np.nan, 0.0, 0.01, 5.0]),
)
def test_quality_stays_in_range_for_any_input(seed, shift, spread, score, residual):
    rng = np.random.default_rng(seed)
    crop = rng.integers(0, 256, (512, 512, 3), np.uint8)
    landmarks = (rng.normal(0, spread, (478, 3)) + shift).astype(np.float32)
    q = measure_quality(
        crop, landmarks, np.array([0, 0, spread, spread]), score, landmark_residual=residual, occlusion=residual
    )
    for name in ("confidence", "landmark_confidence", "sharpness", "exposure"):
        assert 0 <= getattr(q, name) <= 1, name
    assert -90 <= q.skin_tone_ita_deg <= 90
    for f in fields(q):
        assert type(getattr(q, f.name)).__name__ == f.type  # Parquet and JSON want Python's own


def test_nan_landmarks_are_accepted(woman):
    q = measure_quality(woman[0], np.full((478, 3), np.nan), BOX, 0.5)
    assert q.sharpness == 0
    assert np.isfinite(q.exposure)


def test_blur_lowers_sharpness_and_contrast_does_not(woman):
    crop, landmarks = woman
    sharp = [sharpness(cv2.GaussianBlur(crop, (0, 0), s) if s else crop, landmarks) for s in (0, 3, 5, 8)]
    assert sharp[0] > sharp[1] > sharp[2] >= sharp[3]
    assert sharp[0] > 0.4
    assert sharp[3] < 0.15
    dim = (crop * 0.4 + 60).astype(np.uint8)
    assert sharpness(dim, landmarks) == pytest.approx(sharp[0], abs=0.12)


def test_sharpness_ignores_the_background(woman):
    crop, landmarks = woman
    hull = cv2.convexHull(landmarks[:, :2].astype(np.float32)).astype(np.int32)
    inside = cv2.fillConvexPoly(np.zeros((512, 512), np.uint8), hull, 1)[..., None] > 0
    soft = cv2.GaussianBlur(crop, (0, 0), 8)
    noise = np.random.default_rng(0).integers(0, 256, crop.shape, np.uint8)
    assert sharpness(np.where(inside, soft, noise), landmarks) < 0.2


def test_flat_image_has_zero_sharpness(woman):
    assert sharpness(np.full((512, 512, 3), 90, np.uint8), woman[1]) == 0


def painted(woman, linear) -> np.ndarray:
    colour = np.rint(255 * linear_to_srgb(np.array(linear, np.float32))).astype(np.uint8)
    return np.broadcast_to(colour, (512, 512, 3)).copy()


@pytest.mark.parametrize("linear", [(0.5, 0.3, 0.2), (0.08, 0.04, 0.02), (0.8, 0.6, 0.5)])
def test_exposure_is_linear_luminance(woman, linear):
    q = measure_quality(painted(woman, linear), woman[1], BOX, 0.9)
    assert q.exposure == pytest.approx(np.dot(linear, [0.2126, 0.7152, 0.0722]), rel=0.02)
    assert skin_colour(painted(woman, linear), woman[1]) == pytest.approx(linear, rel=0.03)


def test_halved_light_halves_the_exposure(woman):
    crop, landmarks = woman
    from rigface.image import srgb8_to_linear

    half = np.rint(255 * linear_to_srgb(srgb8_to_linear(crop) / 2)).astype(np.uint8)
    whole = measure_quality(crop, landmarks, BOX, 0.9).exposure
    assert measure_quality(half, landmarks, BOX, 0.9).exposure == pytest.approx(whole / 2, rel=0.02)


def test_highlights_and_hair_do_not_change_the_skin_colour(woman):
    crop = painted(woman, (0.4, 0.25, 0.18))
    for row in range(0, 512, 96):  # an eighth of it each
        crop[row : row + 12] = 255
        crop[row + 40 : row + 52] = 0
    assert skin_colour(crop, woman[1]) == pytest.approx((0.4, 0.25, 0.18), rel=0.05)


def test_masked_out_pixels_are_no_skin(woman):
    crop, mask = painted(woman, (0.4, 0.25, 0.18)), np.full((512, 512), 255, np.uint8)
    crop[:, 256:] = 255
    mask[:, 256:] = 0
    assert skin_colour(crop, woman[1], mask) == pytest.approx((0.4, 0.25, 0.18), rel=0.05)


@pytest.mark.parametrize("tone", [(1, 1, 1), (1.0, 0.85, 0.6)], ids=["grey", "sepia"])
def test_toned_image_is_grey(woman, tone):
    grey = cv2.cvtColor(woman[0], cv2.COLOR_RGB2GRAY)[..., None] * np.array(tone)
    assert is_grey(grey.astype(np.uint8))
    assert not is_grey(woman[0])


def test_suspect_needs_two_witnesses():
    assert is_suspect(0.72, 0.004, 0.15, 0.2)
    assert is_suspect(0.72, 0.004, 0.03, 0.5)
    assert is_suspect(0.72, 0.015, 0.03, 0.1)
    assert not is_suspect(0.72, 0.004, 0.03, 0.1)
    assert not is_suspect(0.92, 0.015, 0.15, 0.5)
    assert not is_suspect(0.72, 0.015, 0.03, 0.1, yaw_deg=60)  # profiles fit worse
    assert not is_suspect(0.72, np.nan, np.nan, np.nan)
    assert is_suspect(0.5, np.nan, np.nan, np.nan)


@pytest.mark.slow
def test_dog_is_suspect_and_painting_is_not(detector, shared):
    from rigface.face.geometry.rotation import to_degrees, to_matrix
    from rigface.face.reconstruction.reconstructor import load_reconstructor

    reconstruct, suspects = load_reconstructor(), {}
    for name in ("bad/b23_dog_false_positive.jpg", "bad/b24_painting.jpg", "images/hum_i04.jpg", "images/ss_i01.jpg"):
        picture = decode((shared / "data" / name).read_bytes())
        face = detector(picture)[0]
        crop, landmarks = cut(picture, face)
        fit = reconstruct([crop], landmarks[None], face.blendshapes[None], np.zeros(1, np.int64))
        yaw, pitch, roll = np.asarray(to_degrees(to_matrix(fit.params.head_rotation)))[0]
        q = measure_quality(
            crop,
            landmarks,
            face.box,
            face.score,
            yaw_deg=yaw,
            pitch_deg=pitch,
            roll_deg=roll,
            landmark_residual=fit.landmark_residual[0],
            photometric_residual=fit.photometric_residual[0],
            occlusion=fit.occlusion[0],
        )
        suspects[name[-8:-4]] = q.is_suspect
        assert (q.confidence < 0.05) == q.is_suspect
    assert suspects == {"tive": True, "ting": False, "_i04": False, "_i01": False}


@pytest.mark.slow
def test_blurred_portraits_are_flagged(detector, shared):
    def of(name):
        picture = decode((shared / "data/images" / name).read_bytes())
        return sharpness(*cut(picture, detector(picture)[0]))

    assert max(of("cf_i01.png"), of("cf_i04.png"), of("cf_i05.png"), of("ins_i08.jpg")) < 0.2
    assert min(of("fnp_i02.jpg"), of("hum_i04.jpg"), of("of_i04.jpg")) > 0.6
