"""Expression codes from crops and landmarks, against the authors' own steps and networks."""

from functools import partial

import numpy as np
import pytest
from scipy.io import savemat

from rigface.errors import MissingAsset
from rigface.face.geometry.landmarks import LAYOUTS
from rigface.face.reconstruction.expression_code import load_expression_coder
from rigface.testing.official.networks import write_d3dfr, write_deep3d
from rigface.types import CROP_PX
from tests.rigface.face.official_figures import loaded


def in_crop(picture):
    """A picture in the upper left corner of a black crop: its surroundings are black in the authors' code, too."""
    crop = np.zeros((CROP_PX, CROP_PX, 3), np.uint8)
    crop[: picture.shape[0], : picture.shape[1]] = picture
    return crop


def five_as_mediapipe(points):
    """(478, 3) landmarks whose five points are these (5, 2); 0.5: the authors' pixel centres are whole numbers."""
    layout, landmarks = LAYOUTS[478], np.zeros((478, 3), np.float32)
    eye_r, eye_l, nose, *mouth = points + 0.5
    landmarks[list(layout.eyes[2:]), :2], landmarks[list(layout.eyes[:2]), :2] = eye_r, eye_l
    landmarks[layout.nose_tip, :2], landmarks[list(layout.mouth), :2] = nose, mouth
    return landmarks


@pytest.fixture(scope="module")
def assets(tmp_path_factory, figures):
    folder = tmp_path_factory.mktemp("assets")
    for name in ("d3dfr", "deep3d", "basel"):
        (folder / name).mkdir()
    write_d3dfr(folder / "d3dfr" / "d3dfr_res50_nofc.pth")
    write_deep3d(folder / "deep3d" / "epoch_20.pth")
    points = np.zeros((68, 3))
    points[[36, 42, 30, 48, 54]] = points[[39, 45, 30, 48, 54]] = figures("deep3d")["lm3d_five"]
    savemat(folder / "basel" / "similarity_Lm3D_all.mat", {"lm": points})
    return folder


@pytest.mark.slow
def test_d3dfr_codes_are_those_of_the_authors_steps(figures, weights, tmp_path):
    figure = figures("d3dfr")
    load = partial(load_expression_coder, "d3dfr")
    coder = loaded(load, weights("d3dfr.d3dfr"), tmp_path / "d3dfr_res50_nofc.pth")
    count = len(figure["expression"])
    landmarks = np.stack([five_as_mediapipe(points) for points in figure["points"][:count]])
    codes = coder([in_crop(figure["picture"])] * count, landmarks)
    assert codes.dtype == np.float32
    spread = np.abs(figure["expression"]).mean()
    assert np.abs(codes - figure["expression"]).mean() < 0.01 * spread  # the authors' warp reads at 1/32 px


@pytest.mark.parametrize("name", ["d3dfr", "deep3d"])
@pytest.mark.slow
def test_codes_do_not_depend_on_the_batch_or_a_smaller_copy(assets, figures, name):
    figure = figures("deep3d")
    coder = load_expression_coder(name, assets)
    landmarks = np.zeros((3, 478, 3), np.float32)
    landmarks[:, list(LAYOUTS[478].sixty_eight), :2] = figure["landmarks68"][:3]
    crops = [in_crop(figure["picture0"])] * 3
    together = coder(crops, landmarks)
    assert together.shape == (3, 64)
    assert np.abs(together[1:2] - coder(crops[1:2], landmarks[1:2])).max() < 1e-4
    small = [crop.reshape(256, 2, 256, 2, 3).mean((1, 3)).astype(np.uint8) for crop in crops]
    assert np.abs(coder(small, landmarks) - together).mean() < 0.2 * together.std()


@pytest.mark.parametrize("name", ["d3dfr", "deep3d"])
@pytest.mark.parametrize("place", [256.0, np.nan])
def test_coincident_or_missing_landmarks_are_accepted(assets, name, place):
    coder = load_expression_coder(name, assets)
    codes = coder([np.full((CROP_PX, CROP_PX, 3), 90, np.uint8)], np.full((1, 478, 3), place, np.float32))
    assert np.isfinite(codes).all()


def test_no_faces_give_no_codes(assets):
    assert load_expression_coder("d3dfr", assets)([], np.zeros((0, 478, 3))).shape == (0, 64)


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RIGFACE_ASSETS", str(tmp_path))
    with pytest.raises(MissingAsset, match=r"d3dfr_res50_nofc\.pth"):
        load_expression_coder("d3dfr", tmp_path)
    with pytest.raises(ValueError, match="there are d3dfr, deep3d"):
        load_expression_coder("magic", tmp_path)


def test_deep3d_needs_the_points_it_aligns_to(assets, tmp_path, monkeypatch):
    monkeypatch.setenv("RIGFACE_ASSETS", str(tmp_path))
    (tmp_path / "epoch_20.pth").symlink_to(assets / "deep3d" / "epoch_20.pth")
    with pytest.raises(MissingAsset, match=r"similarity_Lm3D_all\.mat"):
        load_expression_coder("deep3d", tmp_path)
