"""The reconstructor of FLAME: a drawn face is taken apart again, and detectors that cannot drive it are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigface.errors import MissingAsset
from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.head.basel import FILE
from rigface.face.head.flame import load_flame
from rigface.face.head.heads import load_head
from rigface.face.head.overlay import with_open_albedo
from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.reconstruction.flame_reconstructor import FlameFit
from rigface.face.reconstruction.reconstructor import load_reconstructor
from rigface.face.rendering.renderer import render
from rigface.image import linear_to_srgb
from rigface.testing.official.basel import write_basel
from rigface.testing.official.flame import FLAME_2023, write_flame
from rigface.types import DetectorSpec, FaceParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_flame(tmp_path_factory.mktemp("assets") / "flame", steps=1, texture=False)


@pytest.fixture(scope="module")
def head(folder):
    return with_open_albedo(load_flame(folder))


def test_drawn_face_is_drawn_again_from_its_fit(head):
    params = FaceParams(
        shape=torch.zeros(1, 100),
        expression=torch.nn.functional.one_hot(torch.tensor([2]), 50).float(),
        head_rotation=torch.tensor([[0.05, 0.2, 0.0]]),
        jaw_rotation=torch.tensor([[0.1, 0.0, 0.0]]),
        camera=torch.tensor([[6.5, 0.0, 0.01]]),
        albedo=torch.zeros(1, head.spec.albedo),
        light=torch.zeros(1, 9, 3).index_fill(1, torch.tensor([0]), 0.9 * AMBIENT),
        eyelids=torch.zeros(1, 2),
    )
    crop = linear_to_srgb(render(head, params).image[0].permute(1, 2, 0).clamp(0, 1).numpy())
    crop = (crop * 255 + 0.5).astype(np.uint8)
    landmarks = to_crop_px(project(head.of(params)[:, :468], params.camera)).numpy()
    fit = FlameFit(head)([crop], landmarks, None, np.zeros(1, int))
    assert fit.landmark_residual[0] < 0.005
    assert fit.photometric_residual[0] < 0.02
    found = fit.params.map(torch.from_numpy)
    again = linear_to_srgb(render(head, found).image[0].permute(1, 2, 0).clamp(0, 1).numpy()) * 255
    inside = crop.any(-1)
    assert np.abs(again[inside] - crop[inside]).mean() < 4


def test_loader_gives_flame_with_the_wanted_sizes(folder):
    small = load_reconstructor("fit", "flame", folder=str(folder.parent), shape=20, expression=10)
    assert (small.head_spec.name, small.head_spec.shape, small.head_spec.expression) == ("flame", 20, 10)
    assert small.head_spec.albedo_source.startswith("open:")
    assert load_head(small.head_spec, folder).spec == small.head_spec


def test_basel_model_is_fitted_as_flame_without_joints(tmp_path):
    write_basel(tmp_path)
    fit = load_reconstructor("fit", "basel", folder=str(tmp_path / FILE))
    head = load_head(fit.head_spec, tmp_path / FILE)
    params = FaceParams(
        shape=torch.zeros(1, 80),
        expression=torch.nn.functional.one_hot(torch.tensor([3]), 64) * 0.2,
        head_rotation=torch.tensor([[0.05, 0.2, 0.0]]),
        jaw_rotation=torch.zeros(1, 3),
        camera=torch.tensor([[6.5, 0.0, 0.01]]),
        albedo=torch.zeros(1, 80),
        light=torch.zeros(1, 9, 3).index_fill(1, torch.tensor([0]), 0.9 * AMBIENT),
    )
    crop = (render(head, params).image[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255 + 0.5).astype(np.uint8)
    landmarks = to_crop_px(project(head.of(params)[:, :468], params.camera)).numpy()
    found = fit([crop], landmarks, None, np.zeros(1, int))
    assert found.landmark_residual[0] < 0.005
    assert found.photometric_residual[0] < 0.02
    assert found.params.expression.shape == (1, 64)
    assert found.params.albedo.shape == (1, 80)


def test_codes_of_flame_2020_are_refused_on_2023(folder, head, tmp_path):
    other = write_flame(tmp_path / "flame", FLAME_2023, steps=0, texture=False)
    with pytest.raises(MissingAsset, match=r"the coefficients are of flame sha256:\w+, and flame sha256:\w+ is"):
        load_head(replace(head.spec, albedo=0), other)


def test_detector_without_mediapipe_points_is_refused(folder):
    wanted = r"the flame head is fitted to MediaPipe's 468\+ landmarks; this detector gives 106"
    with pytest.raises(ValueError, match=wanted):
        load_reconstructor("fit", "flame", detector=DetectorSpec("scrfd", "1", 106), folder=str(folder))
    with pytest.raises(ValueError, match=wanted):
        FlameFit(load_head("flame", folder))([], np.zeros((0, 106, 3), np.float32), None, np.zeros(0, int))
