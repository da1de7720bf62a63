"""MediaPipe detector: units, second look, tiles, and KeyframeDetector. Faces: NASA's astronaut."""

import concurrent.futures.thread
import queue
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from rigface.face.detection import mediapipe_library
from rigface.face.detection.boxes import iou, landmark_box, non_maximum_suppression, tile_grid
from rigface.face.detection.detector import KeyframeDetector
from rigface.face.detection.factory import load_detector
from rigface.face.detection.mediapipe import BLENDSHAPES, SURE, TILE_PX
from rigface.types import Detection


@pytest.fixture(scope="module")
def detector():
    return load_detector("mediapipe")


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


def face_at(x: float, y: float, side: float = 10, score: float = 0.9) -> Detection:
    landmarks = np.array([[x, y, 0], [x + side, y + side, 0]], np.float32)
    return Detection(landmark_box(landmarks), landmarks, score)


def test_face_is_reported_in_frame_pixels(detector, astronaut):
    (face,) = detector(astronaut)
    assert face.landmarks.shape == (478, 3)
    assert face.landmarks.dtype == np.float32
    assert face.blendshapes.shape == (52,)
    assert face.matrix.shape == (4, 4)
    assert np.allclose(face.box, landmark_box(face.landmarks))
    assert face.score > 0.8
    nose, left_eye, right_eye = face.landmarks[1], face.landmarks[473], face.landmarks[468]
    assert np.allclose(nose[:2], [224, 131], atol=6)  # by eye, in the picture
    assert left_eye[0] > right_eye[0] + 30  # the person's left is on the picture's right
    assert nose[2] < face.landmarks[234, 2]  # the nose is nearer to the camera than an ear
    assert face.blendshapes[BLENDSHAPES.index("mouthSmileLeft")] > 0.5  # she smiles
    assert face.blendshapes[BLENDSHAPES.index("eyeBlinkLeft")] < 0.3  # with open eyes


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_face_on_its_side_is_found_where_it_lies(detector, astronaut, quarters):
    (upright,) = detector(astronaut)
    (face,) = detector(np.ascontiguousarray(np.rot90(astronaut, quarters)))
    x, y = upright.landmarks[1, :2]  # the picture is a square of 512 px
    nose = {1: (y, 512 - x), 2: (512 - x, 512 - y), 3: (512 - y, x)}[quarters]
    assert np.allclose(face.landmarks[1, :2], nose, atol=3)
    assert np.allclose(face.blendshapes, upright.blendshapes, atol=0.1)
    turn = face.matrix[:3, :3] @ upright.matrix[:3, :3].T
    assert np.degrees(np.arctan2(turn[1, 0], turn[0, 0])) % 360 == pytest.approx(90 * quarters, abs=5)


def test_spec_version_depends_on_the_model_file(detector):
    assert detector.spec.name == "mediapipe"
    assert detector.spec.landmarks == 478
    assert detector.spec.version == "face_landmarker-64184e229b26"
    assert len(set(detector.spec.blendshape_names)) == 52
    assert detector.spec.blendshape_names[0] == "_neutral"


def test_blendshape_names_are_the_models(detector, astronaut):
    library = detector._landmarker.landmarker
    reported = library.detect(mediapipe_library.mediapipe_image(astronaut)).face_blendshapes[0]
    assert [b.category_name for b in reported] == list(BLENDSHAPES)


def test_shifted_image_shifts_the_face(detector, astronaut):
    moved = np.zeros((560, 600, 3), np.uint8)
    moved[30:542, 50:562] = astronaut
    (here,), (there,) = detector(astronaut), detector(moved)
    assert np.abs(there.landmarks[:, :2] - here.landmarks[:, :2] - [50, 30]).mean() < 1.0


def test_face_in_a_large_image_has_frame_coordinates(detector, astronaut):
    import cv2

    large = cv2.resize(astronaut, (2500, 2500), interpolation=cv2.INTER_LINEAR)
    (here,), (there,) = detector(astronaut), detector(large)
    assert np.abs(there.landmarks / (2500 / 512) - here.landmarks).mean() < 1.0


def test_second_look_finds_a_small_face(detector, astronaut):
    import cv2

    wall = np.random.default_rng(0).integers(90, 110, (900, 1400, 3)).astype(np.uint8)
    small = cv2.resize(astronaut[:256, 100:356], (64, 64), interpolation=cv2.INTER_AREA)  # her face is about 27 px
    wall[500:564, 1001:1065] = small
    assert detector(wall, second_look=False) == []
    (face,) = detector(wall)
    assert np.abs((face.box[:2] + face.box[2:]) / 2 - [1033, 530]).max() < 6
    assert 18 < face.box[3] - face.box[1] < 32
    assert face.score >= SURE


def test_small_faces_beside_large_ones_need_the_option(detector, astronaut):
    import cv2

    scene = np.zeros((1024, 1400, 3), np.uint8)
    scene[:1024, :1024] = cv2.resize(astronaut, (1024, 1024))
    scene[700:780, 1200:1280] = cv2.resize(astronaut[:256, 100:356], (80, 80), interpolation=cv2.INTER_AREA)
    assert len(detector(scene)) == 1
    assert len(detector(scene, second_look=True)) == 2


@pytest.mark.parametrize("picture", ["coffee", "rocket"])
def test_image_without_faces_gives_an_empty_list(detector, picture):
    assert detector(getattr(skimage.data, picture)()) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 900, 3), (700, 3, 3)])
def test_detector_accepts_extreme_aspect_ratios(detector, shape):
    assert detector(np.full(shape, 127, np.uint8)) == []


@pytest.mark.parametrize("wrong", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)])
def test_wrong_image_shape_or_dtype_is_refused(detector, wrong):
    with pytest.raises(ValueError, match=r"want \(H, W, 3\) uint8"):
        detector(wrong)


def test_detector_writes_nothing_to_stderr():
    code = (
        "import skimage.data; from rigface.face.detection.factory import load_detector; d = load_detector();"
        "assert len(d(skimage.data.astronaut())) == 1; import os; os.write(2, b'heard')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "heard"


def test_loading_error_is_not_swallowed(tmp_path):
    (tmp_path / "face_landmarker.task").write_bytes(b"not a model")
    with pytest.raises(Exception, match=r"(?i)zip|model|parse|open"):
        load_detector("mediapipe", folder=tmp_path)


def test_unknown_detector_lists_the_known_names():
    with pytest.raises(ValueError, match="mediapipe, insightface"):
        load_detector("haar")


@settings(deadline=None)
@given(
    height=st.integers(100, 4400),
    width=st.integers(400, 5000),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    size=st.floats(24, 60),
)
def test_every_small_face_is_whole_in_some_tile(height, width, x, y, size):
    left, top = x * (width - size), y * (height - size)
    tiles = tile_grid(height, width, TILE_PX, max_tiles=10_000)
    assert any(a <= left and b <= top and left + size <= a + s and top + size <= b + s for a, b, s in tiles)


@settings(deadline=None)
@given(st.integers(1, 12_000), st.integers(1, 12_000), st.integers(30, 400))
def test_tile_grid_is_bounded_and_starts_inside(height, width, limit):
    tiles = tile_grid(height, width, TILE_PX, limit)
    assert len(tiles) <= limit
    assert all(0 <= x < width and 0 <= y < height for x, y, _ in tiles)


def test_iou_matches_hand_computed_values():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]])
    assert np.allclose(iou(np.array([0, 0, 10, 10]), boxes), [1, 1 / 3, 0, 0])


def test_overlapping_detections_are_merged():
    found = non_maximum_suppression([face_at(0, 0, score=0.7), face_at(1, 0, score=0.9), face_at(30, 0, score=0.8)])
    assert [f.score for f in found] == [0.9, 0.8]


class Counting:
    """A detector that notes how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bool | None, int]] = []

    def __call__(self, image, *, second_look=None, before=()):
        self.asked.append((second_look, len(before)))
        return [face_at(0, 0)]


def test_keyframe_detector_takes_a_full_look_every_n_frames():
    detector = Counting()
    keyframe_detector = KeyframeDetector(detector, every=3)
    for _ in range(7):
        keyframe_detector(np.zeros((4, 4, 3), np.uint8))
    assert detector.asked == [(None, 0), (False, 1), (False, 1), (None, 0), (False, 1), (False, 1), (None, 0)]


def test_keyframe_detector_keeps_a_small_face_between_full_looks(detector, astronaut):
    import cv2

    small = cv2.resize(astronaut[:256, 100:356], (70, 70), interpolation=cv2.INTER_AREA)
    keyframe_detector, seen = KeyframeDetector(detector, every=100), []
    for step in range(4):
        frame = np.full((700, 1300, 3), 100, np.uint8)
        frame[300:370, 600 + 3 * step : 670 + 3 * step] = small
        seen.append(keyframe_detector(frame))
    centres = [float(f.box[0] + f.box[2]) / 2 for (f,) in seen]
    assert np.allclose(np.diff(centres), 3, atol=1)


def test_scores_are_kept_between_frames(detector, astronaut):
    (face,) = detector(astronaut)
    known = Detection(face.box + 2, face.landmarks, 0.4321)
    (again,) = detector(astronaut, before=[known])
    assert again.score == 0.4321


def test_tiny_face_in_a_4k_frame_is_found(detector, shared):
    from PIL import Image

    (face,) = detector(np.asarray(Image.open(shared / "data/bad/b12_4k_tiny_face.jpg").convert("RGB")))
    assert np.abs((face.box[:2] + face.box[2:]) / 2 - [2734, 1353]).max() < 12
    assert max(face.box[2] - face.box[0], face.box[3] - face.box[1]) < 30


def test_second_look_finds_a_group_of_twenty_nine(detector, shared):
    from PIL import Image

    found = detector(np.asarray(Image.open(shared / "data/images/hum_i02.jpg").convert("RGB")))
    assert len(found) == 29  # counted by eye; the plain look shows none


def test_collected_detector_is_closed_by_another_thread():
    """Garbage may be collected within a call that holds a lock which closing takes."""
    closed: queue.SimpleQueue[int] = queue.SimpleQueue()
    lock = concurrent.futures.thread._global_shutdown_lock  # MediaPipe submits its calls to executors
    with lock:
        mediapipe_library._close(
            SimpleNamespace(close=lambda: lock.acquire(timeout=5) and closed.put(threading.get_ident()))
        )
    assert closed.get(timeout=60) != threading.get_ident()
    lock.release()


def test_arrays_are_those_of_mediapipes_own_objects(detector, astronaut):
    """Of two faces; a MediaPipe that hides what is read here gives the same."""
    face, library = astronaut[:256, 96:352], detector._landmarker.landmarker
    image = mediapipe_library.mediapipe_image(np.concatenate([face, face[:, ::-1]], axis=1))
    found, public = mediapipe_library.detect(library, image), SimpleNamespace(detect=library.detect)
    for objects in (mediapipe_library.of_objects(public.detect(image)), mediapipe_library.detect(public, image)):
        assert len(found) == len(objects) == 2
        for ours, theirs in zip(found, objects):
            assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(ours, theirs))
