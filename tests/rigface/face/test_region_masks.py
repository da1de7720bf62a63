"""Regions: which pixels an edit may change, on a photograph and by a mask of its own."""

import cv2
import numpy as np
import pytest

from rigface.editor import Editor
from rigface.edits import EditSpec, FaceEdit, LightEdit
from rigface.face.region_masks import region_labels, region_mask
from rigface.types import REGION_LABELS
from rigface.video.decode import read_frames
from tests import remembered

LABELS = {name: number for number, name in enumerate(REGION_LABELS)}
LIGHT = LightEdit(azimuth_deg=70, intensity=1.5, ambient=0.1)
EYES, NOSE, MOUTH, FOREHEAD, CROWN = (159, 386), 4, 14, 151, 10  # landmarks


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(remembered.analyzer())


@pytest.fixture(scope="module")
def photo(fixtures) -> np.ndarray:
    return next(read_frames(str(fixtures / "clip.mp4"))).image


@pytest.fixture(scope="module")
def face(editor, photo):
    return editor.analyzer(photo)[0]


def at(mask, face, landmark, up_px=0.0):
    x, y = face.landmarks[landmark, :2]
    return int(mask[int(y - up_px), int(x)])


@pytest.mark.parametrize(
    ("region", "inside", "outside"),
    [("eyes", EYES, (NOSE, MOUTH)), ("mouth", (MOUTH, 152), (*EYES, FOREHEAD)), ("hair", (), (*EYES, NOSE, MOUTH))],
)
def test_region_holds_its_features_only(face, region, inside, outside):
    mask = region_mask(face, face.params, region)
    assert all(at(mask, face, k) > 250 for k in inside)
    assert all(at(mask, face, k) == 0 for k in outside)
    assert (at(mask, face, CROWN, up_px=25) > 250) == (region == "hair")
    assert ((mask > 5) & (mask < 250)).sum() > 500  # a soft edge


@pytest.mark.parametrize("region", ["eyes", "mouth", "hair"])
def test_light_changes_the_region_only(editor, photo, face, region):
    out = editor.edit(photo, EditSpec(light=LIGHT, region=region), measure=False).image
    whole = editor.edit(photo, EditSpec(light=LIGHT), measure=False).image
    affine = cv2.invertAffineTransform(face.frame_to_crop)
    shown = cv2.warpAffine(region_mask(face, face.params, region), affine, photo.shape[1::-1])
    assert np.array_equal(out[shown == 0], photo[shown == 0])
    inside = shown == 255
    assert np.abs(out.astype(int) - whole)[inside].mean() < 1
    assert np.abs(out.astype(int) - photo)[inside].mean() > 5


def test_opened_mouth_lies_within_its_region_before_and_after(editor, face):
    opened = editor.edited_params(face.params, EditSpec(expression={"jaw_open": 1.0}), {})
    before, after = (region_mask(face, params, "mouth") for params in (face.params, opened))
    assert (after >= before).mean() > 0.99
    assert (after > 250).sum() > 1.02 * (before > 250).sum()


def test_mask_bounds_any_edit_at_any_size(editor, photo):
    half = np.zeros((40, 60), np.uint8)
    half[:, 30:] = 255
    out = editor.edit(photo, [FaceEdit("largest", EditSpec(light=LIGHT), mask=half)], measure=False).image
    middle = photo.shape[1] // 2
    assert np.array_equal(out[:, : middle - 10], photo[:, : middle - 10])
    assert not np.array_equal(out[:, middle + 10 :], photo[:, middle + 10 :])


def test_labels_name_the_regions_of_a_face(face):
    for size in (512, 64):
        points = face.landmarks[:, :2] * (size / 512)
        labels = region_labels(points, cv2.resize(face.mask, (size, size), interpolation=cv2.INTER_AREA))
        for landmark, name in ((MOUTH, "features"), (EYES[0], "features"), (NOSE, "face"), (FOREHEAD, "face")):
            x, y = points[landmark].astype(int)
            assert labels[y, x] == LABELS[name]
        assert labels[0, 0] == LABELS["background"]
        x, y = points[CROWN].astype(int)
        assert labels[int(y - 0.03 * size), x] == LABELS["person"], "hair"
        row = labels[size // 2]
        start = np.flatnonzero(row)[0]
        assert row[start] == LABELS["rim"], "from the left the person begins with their edge"
