"""Crop rules against the authors' own squares, affines and crops."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.face.geometry import official_crops as crops
from rigface.face.geometry import rigface_crop
from rigface.face.geometry.landmarks import LAYOUTS, sixty_eight
from rigface.types import CROP_PX

RULES = {"deca_125": crops.DECA, "emoca_125": crops.DECA, "rigface_130": crops.RIGFACE_DECA, "smirk_140": crops.SMIRK}


@pytest.fixture(scope="module")
def points68(figures):
    return figures("crops_points68")


@pytest.mark.parametrize("name", RULES)
def test_squares_and_affines_are_the_authors(points68, name):
    squares = crops.square_around(points68["points68"], RULES[name])
    assert (squares[:, 2] == points68[f"{name}.square"]).all()
    want = points68[f"{name}.matrices"][:, :2]
    np.testing.assert_allclose(crops.square_affine(squares), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "picture"), [("deca_125", 0), ("deca_125", 1), ("rigface_130", 0)])
def test_crops_are_the_authors(points68, name, picture):
    affine = crops.square_affine(crops.square_around(points68["points68"], RULES[name]))[picture]
    crop = crops.warp([points68[f"picture{picture}"]], affine[None], crops.FLAME_PX)[0] / 255
    want = points68[f"crop{picture}.{name}_stride2"]
    assert np.abs(crop[:, ::2, ::2].numpy() - want).max() < 1e-4


@pytest.mark.parametrize("picture", [0, 1])
def test_smirk_crops_are_cut_down_to_whole_levels(points68, picture):
    squares = crops.square_around(points68["points68"], crops.SMIRK)[picture : picture + 1]
    crop = crops.flame_crops([points68[f"picture{picture}"]], squares, crops.SMIRK)[0]
    off = np.abs(crop[:, ::2, ::2].numpy() - points68[f"crop{picture}.smirk_140_stride2"])
    assert (off < 1e-4).mean() > 0.9999
    assert off.max() < 1.01 / 255  # a value on the edge between two levels


def test_crop_camera_is_the_authors(figures, fixtures):
    figure = figures("deca")
    cameras = torch.from_numpy(load_file(fixtures / "flame" / "io.safetensors")["cam"])
    squares, want = figure["crop"], figure["picture_camera"]
    for i, side in enumerate(figure["picture_side"]):
        back = crops.square_camera(cameras[i : i + 1], squares[i : i + 1], int(side))
        np.testing.assert_allclose(back.numpy(), want[i : i + 1], rtol=1e-5)


def test_rigface_photo_affines_are_the_authors(figures):
    figure = figures("crops_rigface_photo")
    for box, want in zip(figure["boxes"], figure["matrices"], strict=True):
        affine = rigface_crop.rigface_frame_to_crop(box).astype(np.float64)
        affine[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5
        np.testing.assert_allclose(affine, want, rtol=1e-5, atol=5e-3)


@pytest.mark.parametrize("picture", [0, 1])
def test_rigface_photos_are_the_authors(figures, picture):
    figure = figures("crops_rigface_photo")
    crop = rigface_crop.rigface_photo(
        figure[f"picture{picture}"], rigface_crop.rigface_frame_to_crop(figure["boxes"][picture])
    )
    assert crop.shape == (CROP_PX, CROP_PX, 3)
    for part, want in ((crop[1::4, 2::4], "stride4"), (crop[200:296, 180:276], "patch")):
        off = np.abs(part.astype(float) - figure[f"crop{picture}_{want}"])
        assert off.mean() < 0.3
        assert off.max() <= 5


@pytest.mark.parametrize("box", [[0, 0, 0, 9], [0, 0, np.nan, 9], [5, 0, 1, 9]])
def test_an_empty_box_is_refused(box):
    with pytest.raises(ValueError, match="want x0 < x1"):
        rigface_crop.rigface_frame_to_crop(np.array(box))


def test_d3dfr_affines_are_the_authors_at_the_points(figures):
    figure = figures("d3dfr")
    np.testing.assert_allclose(figure["mean_points"], crops.D3DFR_POINTS, atol=1e-3)
    points, want = figure["points"].astype(np.float64), figure["affine"]
    got = crops.similarity(figure["points"])
    off = (points @ (got - want)[:, :, :2].mT) + (got - want)[:, None, :, 2]
    assert np.abs(off).max() < 1e-3


def test_d3dfr_pictures_are_the_authors(figures):
    figure = figures("d3dfr")
    count = len(figure["warped"])
    got = crops.warp([figure["picture"]] * count, figure["affine"][:count], crops.D3DFR_PX)
    off = np.abs(got.permute(0, 2, 3, 1).numpy() - figure["warped"])
    assert off.mean() < 0.3  # the authors' OpenCV reads at 1/32 px
    assert off.max() <= 5


def test_deep3d_alignments_and_pictures_are_the_authors(figures):
    figure = figures("deep3d")
    for i, (points, (width, height)) in enumerate(zip(figure["landmarks68"], figure["sizes_wh"], strict=True)):
        alignment = crops.deep3d_alignment(crops.deep3d_five(points), figure["lm3d_five"], int(height))
        np.testing.assert_allclose(alignment, figure["transform"][i, 2:], rtol=1e-5)
        if i < 2:
            picture = figure[f"picture{i}"]
            assert picture.shape[:2] == (height, width)
            assert np.array_equal(crops.deep3d_crop(picture, alignment), figure["aligned"][i])


def test_deep3d_model_points_are_read_from_the_matlab_file(figures, tmp_path):
    from scipy.io import savemat

    points = np.random.default_rng(0).normal(size=(68, 3))
    savemat(tmp_path / "a.mat", {"lm": points})
    np.testing.assert_allclose(crops.deep3d_model_points(tmp_path / "a.mat")[0], (points[36] + points[39]) / 2)
    savemat(tmp_path / "b.mat", {"lm": points[:5]})
    with pytest.raises(BadCheckpoint, match=r"want `lm` \(68, 3\), got \(5, 3\)"):
        crops.deep3d_model_points(tmp_path / "b.mat")
    with pytest.raises(MissingAsset, match=r"d\.mat is not there"):
        crops.deep3d_model_points(tmp_path / "d.mat")
    (tmp_path / "c.mat").write_text("no matlab file")
    with pytest.raises(BadCheckpoint, match="want a MATLAB file"):
        crops.deep3d_model_points(tmp_path / "c.mat")


@pytest.mark.parametrize("count", LAYOUTS)
def test_sixty_eight_agrees_with_the_named_points(count):
    layout = LAYOUTS[count]
    order = sixty_eight(np.arange(count)[:, None])[:, 0]
    assert len(set(order)) == 68
    assert tuple(order[[45, 42, 36, 39]]) == layout.eyes
    assert order[33] == layout.nose_base
    assert tuple(order[[48, 54]]) == layout.mouth
