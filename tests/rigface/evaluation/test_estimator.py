"""FaceEstimator on coloured discs, achieved numbers by hand, and the real networks on one frame."""

from dataclasses import replace

import numpy as np
import pytest

from rigface.edits import NAMED_EXPRESSIONS, EditSpec, LightEdit
from rigface.evaluation.estimator import FaceEstimator, achieved
from rigface.face.controls.transfer import light_coefficients
from rigface.face.geometry.rotation import from_degrees, to_axis_angle
from rigface.testing import fakes
from rigface.types import FaceParams, HeadSpec

HEAD = HeadSpec(
    "toy", "1", shape=1, expression=4, albedo=1,
    expression_names=("jawOpen", "mouthSmileLeft", "mouthSmileRight", "cheekSquintLeft"),
)  # fmt: skip


class Hue:
    """Identity by mean colour; nobody in grey."""

    version = "hue-1"

    def chip(self, image, landmarks):
        (x0, y0), (x1, y1) = (end(landmarks[:, :2], axis=0).astype(int) for end in (np.min, np.max))
        return image[y0:y1, x0:x1]

    def embed(self, chips):
        return np.array([chip.mean((0, 1)) for chip in chips], np.float32)


class Posed(fakes.FakeDetector):
    """Reports a matrix, scaled, as MediaPipe does."""

    def __call__(self, image, **options):
        matrix = np.eye(4, dtype=np.float32)
        matrix[:3, :3] = 3 * from_degrees(np.array([[20.0, 0.0, 0.0]]))[0]
        return [replace(one, matrix=matrix) for one in super().__call__(image, **options)]


def disc(hue: float, radius: int = 14, at: float = 0.0) -> np.ndarray:
    return fakes.picture([hue], at=at, radius=radius)


@pytest.fixture
def estimator() -> FaceEstimator:
    return FaceEstimator(Posed(), fakes.FakeReconstructor(), Hue())


def test_missing_picture_and_missing_face_give_none(estimator):
    grey = np.full((96, 128, 3), fakes.GREY, np.uint8)
    seen = estimator([None, grey, disc(0.0)])
    assert seen[:2] == [None, None]
    assert seen[2] is not None
    assert estimator([None, grey]) == [None, None]


def test_batch_equals_single_pictures(estimator):
    pictures = [disc(h, at=h) for h in (0.0, 0.3, 0.6)]
    together = estimator(pictures)
    for picture, one in zip(pictures, together):
        (alone,) = estimator([picture])
        assert one.params.shape == pytest.approx(alone.params.shape)
        assert one.identity == pytest.approx(alone.identity)
    # No track is shared: an output is not fitted with its source's shape.
    assert not np.allclose(together[0].params.shape, together[1].params.shape)


def test_estimate_has_all_fields(estimator):
    (seen,) = estimator([disc(0.0)])
    assert seen.blendshapes.shape == (3,)
    assert np.linalg.det(seen.turn) == pytest.approx(1)
    assert np.degrees(np.arccos((np.trace(seen.turn) - 1) / 2)) == pytest.approx(20, abs=1e-3)
    assert seen.skin[0] > 2 * seen.skin[1]  # a red disc
    assert seen.params.batch == ()


def test_largest_face_is_estimated_without_a_near_box(estimator):
    picture = fakes.picture([0.0, 0.5], size=(96, 200), radius=12)
    small, large = fakes.picture([0.0], size=(96, 100), radius=8), fakes.picture([0.5], size=(96, 100), radius=20)
    both = np.concatenate([small, large], axis=1)
    (seen,) = estimator([both])
    assert seen.box[0] > 100
    (near,) = estimator([both], near=[np.array([0, 0, 100, 96])])
    assert near.box[2] < 100
    assert estimator([picture], near=[np.array([90, 0, 95, 2])]) == [None]


def test_person_mask_covers_the_face_and_is_empty_without_one(estimator):
    picture = disc(0.0)
    (seen,) = estimator([picture])
    mask = estimator.person(picture, seen)
    middle = seen.landmarks[:, :2].mean(0).astype(int)
    assert mask[middle[1], middle[0]]
    assert 0 < mask.mean() < 0.2
    assert not estimator.person(picture, None).any()


def test_mask_of_the_crop_comes_back_to_the_picture(estimator):
    with_mask = FaceEstimator(Posed(), fakes.FakeReconstructor(), mask=fakes.fake_mask)
    picture = disc(0.0)
    (seen,) = with_mask([picture])
    coloured = np.ptp(picture, axis=2) > fakes.COLOURED
    agree = with_mask.person(picture, seen) == coloured
    assert agree.mean() > 0.99


def test_extractors_name_version_and_crop(estimator):
    got = estimator.extractors
    assert "FakeReconstructor of head fake 1" in got["in loop"]
    assert "512 px square" in got["in loop"]
    assert got["identity"].startswith("hue-1")
    assert FaceEstimator(Posed(), fakes.FakeReconstructor()).extractors["identity"] == "none"


def face(yaw=0.0, pitch=0.0, roll=0.0, light=None, **axes) -> FaceParams:
    expression = np.array([axes.get(name, 0.0) for name in HEAD.expression_names], np.float32)
    return FaceParams(
        shape=np.zeros(1, np.float32),
        expression=expression,
        head_rotation=to_axis_angle(from_degrees(np.array([[yaw, pitch, roll]])))[0].astype(np.float32),
        jaw_rotation=np.zeros(3, np.float32),
        camera=np.zeros(3, np.float32),
        albedo=np.zeros(1, np.float32),
        light=light_coefficients(light or LightEdit(relative=False), 1.0),
    )


def test_achieved_lists_the_edited_numbers_only():
    got = achieved(face(yaw=15), face(yaw=12, pitch=3), HEAD, EditSpec(yaw_deg=15))
    assert list(got) == ["yaw_deg"]
    assert (got["yaw_deg"].asked, got["yaw_deg"].achieved) == (pytest.approx(15), pytest.approx(12))


def test_copied_pose_lists_its_three_angles():
    got = achieved(face(yaw=15, roll=-4), face(yaw=12), HEAD, EditSpec(take={"pose"}))
    assert list(got) == ["yaw_deg", "pitch_deg", "roll_deg"]
    assert got["roll_deg"].asked == pytest.approx(-4)


def test_smile_is_measured_along_its_axes():
    axes = NAMED_EXPRESSIONS["smile"]
    head = replace(HEAD, expression=len(axes), expression_names=tuple(axes))

    def smiling(share: float) -> FaceParams:
        values = np.array([share * 0.6 * full for full in axes.values()], np.float32)
        return replace(face(), expression=values)

    got = achieved(smiling(1), smiling(0.5), head, EditSpec(expression={"smile": 0.6}))["expression.smile"]
    assert (got.asked, got.achieved) == (pytest.approx(0.6), pytest.approx(0.3))


def test_copied_expression_lists_the_axes_that_show():
    got = achieved(face(jawOpen=0.5), face(jawOpen=0.4, mouthSmileLeft=0.3), HEAD, EditSpec(take={"expression"}))
    assert set(got) == {"expression.jawOpen", "expression.mouthSmileLeft"}
    assert got["expression.mouthSmileLeft"].asked == 0


def test_achieved_light_has_the_fields_of_the_edit():
    lamp = LightEdit(azimuth_deg=40, elevation_deg=10, intensity=0.8, ambient=0.4)
    wanted = replace(face(), light=light_coefficients(lamp, 1.7))
    got = achieved(wanted, wanted, HEAD, EditSpec(light=lamp), unit=1.7)
    for name, value in dict(azimuth_deg=40, elevation_deg=10, intensity=0.8, ambient=0.4).items():
        number = got[f"light.{name}"]
        assert number.asked == number.achieved == pytest.approx(value, abs=1e-3)


def test_missing_face_achieves_nan_for_every_number():
    got = achieved(face(yaw=5, jawOpen=0.5), None, HEAD, EditSpec(take={"pose", "expression", "light"}))
    assert {"yaw_deg", "expression.jawOpen", "light.azimuth_deg"} <= set(got)
    assert np.isnan([n.achieved for n in got.values()]).all()


@pytest.mark.slow
def test_real_estimator_is_stable_on_a_frame_of_the_clip(fixtures):
    pytest.importorskip("mediapipe")
    pytest.importorskip("dlib")
    from rigface.errors import MissingAsset
    from rigface.evaluation.baselines import jittered
    from rigface.metrics.geometry import apd_mp, rotation_errors_deg
    from rigface.metrics.identity import distance
    from rigface.types import DLIB_SAME_PERSON
    from rigface.video.decode import read_frames

    try:
        estimator = FaceEstimator.load()
    except MissingAsset as missing:
        pytest.skip(str(missing))
    frame = next(iter(read_frames(str(fixtures / "clip.mp4"), None))).image
    moved = jittered(frame, np.random.default_rng(0))
    mirrored = np.ascontiguousarray(frame[:, ::-1])
    one, same, twin = estimator([frame, moved, mirrored])
    assert rotation_errors_deg(one.params.head_rotation[None], same.params.head_rotation[None])[0] < 1.5
    assert apd_mp(one.turn[None], same.turn[None])[0] < 1.5
    assert distance(one.identity, same.identity) < 0.5 * DLIB_SAME_PERSON
    # Two conventions of rotation must agree, or the tracks would drift apart: our yaw is MediaPipe's.
    ours, theirs = (
        p[1] for p in (one.params.head_rotation - twin.params.head_rotation, _axis(one.turn) - _axis(twin.turn))
    )
    assert np.degrees(ours - theirs) == pytest.approx(0, abs=4)
    mask = estimator.person(frame, one)
    middle = one.landmarks[:, :2].mean(0).astype(int)
    assert mask[middle[1], middle[0]]
    assert not mask[:, 0].any()


def _axis(turn: np.ndarray) -> np.ndarray:
    return to_axis_angle(turn[None])[0]
