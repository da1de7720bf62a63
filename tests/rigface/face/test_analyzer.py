"""FaceAnalyzer: all faces of an image in their crops, and the choice among them."""

import numpy as np
import pytest

from rigface.errors import NoFace
from rigface.face.analyzer import FaceAnalyzer, choose_faces
from rigface.testing.fakes import HEAD, FakeDetector, FakeReconstructor, fake_mask, picture
from rigface.types import Face


@pytest.fixture
def see() -> FaceAnalyzer:
    return FaceAnalyzer(FakeDetector(), FakeReconstructor(), fake_mask)


def test_faces_are_sorted_from_left_to_right_with_their_crops(see):
    faces = see(picture([0.0, 0.33, 0.66], size=(120, 300)))
    assert [f.box[0] for f in faces] == sorted(f.box[0] for f in faces)
    assert len(faces) == 3
    for face, hue in zip(faces, (0, 1, 2)):
        assert face.crop.shape == (512, 512, 3)
        assert face.crop[270, 256].argmax() == hue  # red, green, blue in the middle of their crops
        assert (face.mask[250:290, 240:270] == 255).all()


def test_landmarks_are_in_crop_pixels(see):
    (face,) = see(picture([0.0]))
    corners = np.array([[face.box[0], face.box[1]], [face.box[2], face.box[3]]])
    inside = corners @ face.frame_to_crop[:, :2].T + face.frame_to_crop[:, 2]
    assert (face.landmarks[:, :2] > inside[0]).all()
    assert (face.landmarks[:, :2] < inside[1]).all()
    assert face.params.batch == ()


def test_parser_receives_the_frame_in_crop_pixels():
    frames = []

    def parser(crop, landmarks, inside, size):
        frames.append(inside)
        return fake_mask(crop)

    image = picture([0.0], size=(60, 60), radius=20)
    (face,) = FaceAnalyzer(FakeDetector(), FakeReconstructor(), parser)(image)
    x0, y0, x1, y1 = frames[0]
    scale = face.frame_to_crop[0, 0]
    assert (x1 - x0, y1 - y0) == pytest.approx((60 * scale, 60 * scale))
    assert y0 > 0  # the crop reaches beyond the frame above


def test_image_without_faces_gives_no_faces(see):
    assert see(np.full((50, 50, 3), 60, np.uint8)) == []
    assert see.head == HEAD


def faces(*boxes: tuple[float, float, float, float]) -> list[Face]:
    return [Face(None, None, np.array(b, np.float32), None, None, None, 0.0) for b in boxes]


THREE = faces((0, 0, 10, 10), (20, 0, 50, 30), (60, 0, 75, 15))


@pytest.mark.parametrize(
    ("which", "chosen"),
    [("largest", [1]), ("left-most", [0]), ("right-most", [2]), ("all", [0, 1, 2]), ("1", [1]), (2, [2])],
)
def test_choose_faces_by_word(which, chosen):
    assert [f.box[0] for f in choose_faces(THREE, which)] == [THREE[k].box[0] for k in chosen]


def test_missing_face_is_named_in_the_error():
    with pytest.raises(NoFace, match="there is no face 3: the image has 3"):
        choose_faces(THREE, 3)
    with pytest.raises(NoFace, match="no face was found"):
        choose_faces([], "all")
    with pytest.raises(ValueError, match="want one of largest, left-most"):
        choose_faces(THREE, "-1")
