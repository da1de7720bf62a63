"""InsightFace adapter through the real library, on handmade networks with known outputs."""

import socket
from dataclasses import replace

import numpy as np
import pytest
import skimage.data

from rigface.errors import MissingAsset
from rigface.face.detection.boxes import landmark_box
from rigface.face.detection.detector import KeyframeDetector
from rigface.face.detection.factory import load_detector
from rigface.face.geometry.landmarks import five_points
from rigface.face.identity.arcface import ArcFace
from tests.rigface.face import made_weights
from tests.rigface.face.made_weights import ARCFACE, LANDMARKS, SIZE, scrfd


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """A folder like buffalo_l, and no network to fall back on."""

    def refuse(*_: object) -> None:
        raise AssertionError("insightface tried to download")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("RIGFACE_ASSETS", raising=False)
    return made_weights.pack(tmp_path)


def red(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = 255
    return picture


def expected_landmarks(x0, y0, x1, y1) -> np.ndarray:
    """The library shows the network a square of 1.5 times the box's larger side, around its middle."""
    middle, side = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), max(x1 - x0, y1 - y0)
    return middle + LANDMARKS.reshape(-1, 2) * 0.75 * side + 0.5


def test_box_score_and_landmarks_are_decoded_exactly(pack):
    (face,) = load_detector("insightface", folder=pack)(red())
    corners = np.array([160 - 48, 192 - 64, 160 + 80, 192 + 96], np.float32)
    landmarks = expected_landmarks(*corners)
    assert face.score == pytest.approx(0.9 * 0.998, abs=2e-3)  # 255 is (255 - 127.5) / 128
    assert face.landmarks.shape == (106, 3)
    assert face.landmarks.dtype == np.float32
    assert np.allclose(face.landmarks[:, :2], landmarks, atol=1e-3)
    assert (face.landmarks[:, 2] == 0).all()
    low, high = np.minimum(corners[:2], landmarks.min(0)), np.maximum(corners[2:], landmarks.max(0))
    assert np.allclose(face.box, [*low, *high], atol=1e-3)
    assert face.blendshapes is None
    assert face.matrix is None


def test_small_image_coordinates_are_scaled_back(pack):
    (face,) = load_detector("insightface", folder=pack)(red(240, 320))  # shown to SCRFD twice as large
    assert np.allclose(face.landmarks[:, :2], expected_landmarks(56, 64, 120, 144), atol=1e-3)


def test_all_strides_are_read_and_overlaps_merged(pack):
    faces = [
        (8, 10, 10, 0.7, (5, 5, 5, 5)),  # (80, 80)
        (8, 11, 10, 0.8, (5, 5, 5, 5)),  # the same face, surer
        (16, 20, 5, 0.6, (3, 3, 3, 3)),  # (320, 80)
        (32, 15, 15, 0.9, (3, 3, 3, 3)),  # (480, 480)
        (32, 5, 15, 0.4, (3, 3, 3, 3)),  # too unsure
    ]
    scrfd(pack / "det_10g.onnx", faces)
    found = load_detector("insightface", folder=pack)(red())
    middles = [((f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2) for f in found]
    assert np.allclose(middles, [(480, 480), (88, 80), (320, 80)], atol=1)
    assert [round(f.score, 1) for f in found] == [0.9, 0.8, 0.6]
    assert len(load_detector("insightface", folder=pack, faces=1)(red())) == 1


def test_network_receives_bgr(pack):
    detector = load_detector("insightface", folder=pack)
    assert len(detector(red())) == 1
    assert detector(np.ascontiguousarray(red()[..., ::-1])) == []  # a blue picture


def test_second_look_searches_tiles(pack):
    detector = load_detector("insightface", folder=pack)
    assert len(detector(red(2600, 2600), second_look=False)) == 1
    found = detector(red(2600, 2600), second_look=True)
    sizes = sorted(round(float(f.box[3] - f.box[1])) for f in found)
    assert len(found) == 1 + 9  # one in the whole, at four times the size, and one in each tile of 1280 px
    assert sizes[-1] == pytest.approx(2 * sizes[0], rel=0.05)


def test_lost_faces_are_searched_at_their_last_place(pack):
    class Blind:
        """Sees nothing in whole frames."""

        def __init__(self, real):
            self.real = real

        def detect(self, picture, **options):
            whole = picture.shape[0] > 1000
            return (np.zeros((0, 5), np.float32), None) if whole else self.real.detect(picture, **options)

    detector = load_detector("insightface", folder=pack)
    detector._detection = Blind(detector._detection)
    keyframe_detector = KeyframeDetector(detector, every=100)
    assert keyframe_detector(red(1100, 1200)) == []
    (face,) = detector(red(900, 900), second_look=False)
    keyframe_detector._before = [face]
    assert len(keyframe_detector(red(1100, 1200))) == 1


def test_arcface_gives_unit_vectors_of_512(pack):
    (face,) = load_detector("insightface", folder=pack)(red())
    network = ArcFace(pack)
    chip = network.chip(red(), face.landmarks)
    assert chip.shape == (112, 112, 3)
    vectors = network.embed([chip, chip])
    assert vectors.shape == (2, 512)
    assert np.allclose(vectors, ARCFACE / np.linalg.norm(ARCFACE), atol=1e-5)
    assert network.embed([]).shape == (0, 512)
    assert network.chip(red(), np.zeros((106, 3), np.float32)) is None
    assert np.array_equal(network(red(), face), vectors[0])
    assert network(red(), replace(face, landmarks=np.zeros((106, 3), np.float32))) is None


def test_arcface_chip_is_upright_in_every_layout(pack):
    """Its template puts the eyes at rows 51.6 and columns 38.3 and 73.5 of 112."""
    network, photo = ArcFace(pack), skimage.data.astronaut()
    (face,) = load_detector()(photo)
    upright = network.chip(photo, face.landmarks)
    turned = np.ascontiguousarray(np.rot90(photo))
    height = photo.shape[1]
    rolled = np.stack([face.landmarks[:, 1], height - face.landmarks[:, 0], face.landmarks[:, 2]], axis=1)
    assert np.abs(network.chip(turned, rolled).astype(float) - upright).mean() < 2
    points = face.landmarks[[468, 473], :2]  # the irises
    eyes = five_points(face.landmarks)[:2]
    assert np.abs(points - eyes).max() < 0.1 * np.linalg.norm(eyes[0] - eyes[1])


def test_scrfd_detections_have_mediapipe_landmarks_and_scores(tmp_path):
    """Its box is about the astronaut's face, and about a piece of wall, where the landmarker sees nobody."""
    photo = skimage.data.astronaut()
    plain = load_detector()
    (known,) = plain(photo)
    faces = [(16, 14, 7, 0.9, (3.0, 4.0, 3.0, 4.0)), (16, 35, 30, 0.8, (3.0, 3.0, 3.0, 3.0))]
    scale = SIZE / 512  # SCRFD sees the picture as 640 px
    x0, y0, x1, y1 = known.box * scale / 16
    faces[0] = (16, int((x0 + x1) / 2), int((y0 + y1) / 2), 0.9, ((x1 - x0) / 2,) * 2 + ((x1 - x0) / 2,) * 2)
    made_weights.pack(tmp_path, faces, in_red=False)
    detector = load_detector("scrfd", folder=tmp_path)
    (face,) = detector(photo)
    assert detector.spec.landmarks == len(face.landmarks) == 478
    assert len(detector.spec.blendshape_names) == len(face.blendshapes) == 52
    assert detector.spec.version.startswith("det_10g-")
    assert "face_landmarker-" in detector.spec.version
    assert np.abs(face.landmarks[:, :2] - known.landmarks[:, :2]).max() < 6
    assert face.score == pytest.approx(known.score, abs=0.05)
    middle, found = (b.reshape(2, 2).mean(0) for b in (known.box, face.finder_box))  # SCRFD's own box is kept, too
    assert np.abs(middle - found).max() < 20
    (again,) = detector(photo, before=[face])
    assert again.score == face.score


def test_five_points_are_eye_middles_nose_and_mouth_corners():
    landmarks = np.zeros((106, 3), np.float32)
    landmarks[35, :2], landmarks[39, :2] = (10, 20), (20, 22)
    landmarks[89, :2], landmarks[93, :2] = (40, 22), (50, 20)
    landmarks[86, :2], landmarks[52, :2], landmarks[61, :2] = (30, 40), (20, 60), (41, 60)
    assert five_points(landmarks).tolist() == [[15, 21], [45, 21], [30, 40], [20, 60], [41, 60]]


def test_spec_names_both_files_and_their_hashes(pack):
    spec = load_detector("insightface", folder=pack).spec
    assert (spec.name, spec.landmarks, spec.blendshape_names) == ("insightface", 106, ())
    assert spec.version.startswith("det_10g-")
    assert "+2d106det-" in spec.version


def test_pack_is_found_through_the_environment(pack, monkeypatch, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "insightface").symlink_to(pack)
    monkeypatch.setenv("RIGFACE_ASSETS", str(tmp_path / "assets"))
    assert len(load_detector("insightface")(red())) == 1


def test_missing_network_of_a_pack_is_named(pack):
    (pack / "w600k_r50.onnx").unlink()
    with pytest.raises(MissingAsset, match="recognition"):
        ArcFace(pack)
    (pack / "2d106det.onnx").unlink()
    load_detector("scrfd", folder=pack)
    with pytest.raises(MissingAsset, match="landmark_2d_106"):
        load_detector("insightface", folder=pack)
    (pack / "det_10g.onnx").unlink()
    with pytest.raises(MissingAsset, match="model pack"):
        load_detector("scrfd", folder=pack)


def test_wrong_image_shape_or_dtype_is_refused(pack):
    with pytest.raises(ValueError, match=r"want \(H, W, 3\) uint8"):
        load_detector("insightface", folder=pack)(np.zeros((9, 9), np.uint8))


def test_landmark_boxes_stay_inside_the_reported_box(pack):
    (face,) = load_detector("insightface", folder=pack)(red())
    own = landmark_box(face.landmarks)
    assert (face.box[:2] <= own[:2]).all()
    assert (face.box[2:] >= own[2:]).all()
