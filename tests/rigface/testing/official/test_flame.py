"""The open head in FLAME's files: `load_flame` reads it, and it makes the open head's faces."""

import numpy as np
import pytest
import torch

from rigface.face.head.flame import load_flame
from rigface.face.head.open_head import OpenHead
from rigface.testing.official import flame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return flame.write_flame(tmp_path_factory.mktemp("flame"), steps=0)


@pytest.fixture(scope="module")
def head(folder):
    return load_flame(folder)


def test_shape_coefficients_are_those_of_the_open_head(head):
    own = OpenHead.load()
    shape = np.random.RandomState(0).standard_normal((1, 100)).astype(np.float32)
    vertices = head.neutral(torch.from_numpy(shape), torch.zeros(1, 50))[0].numpy()
    assert np.abs(vertices - own.template - np.einsum("s,svc->vc", shape[0, :40], own.shape)).max() < 1e-6


def test_fifty_expression_coefficients_make_every_blendshape(head):
    own = OpenHead.load()
    basis = head.expression_basis.numpy().reshape(-1, 50)
    target = own.expression.reshape(52, -1).T
    left = target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]
    assert np.abs(left).max() < 2e-5  # metres


def test_landmarks_are_the_points_of_the_68_markup(head):
    own = OpenHead.load()
    points = head.landmarks.points(head.template[None])[0].numpy()
    assert np.array_equal(points, own.template[list(flame.IBUG_68)])
    assert (own.mirror[list(flame.IBUG_68[:17])] == flame.IBUG_68[16::-1]).all()
    assert (own.mirror[list(flame.IBUG_68[36:40])] == [flame.IBUG_68[i] for i in (45, 44, 43, 42)]).all()


def test_jaw_opens_the_lower_lip_alone(head):
    zeros = torch.zeros(1, 100), torch.zeros(1, 50), torch.zeros(1, 3)
    moved = head.vertices(*zeros, jaw_rotation=torch.tensor([[0.2, 0, 0]])) - head.vertices(*zeros)
    down = -moved[0, :, 1]
    assert down[17] > 0.005
    assert abs(down[0]) < 1e-3 > abs(down[1])


def test_model_without_jaw_does_not_follow_the_jaw_joint(tmp_path):
    content = flame._FlameArrays.of(OpenHead.load(), 0, with_jaw=False).pickled(chumpy=False)
    assert not content["weights"][:, 2].any()


def test_texture_holds_the_mean_albedo_as_bgr(folder):
    texture = np.load(folder / "FLAME_texture.npz")
    assert texture["mean"].shape == (512, 512, 3)
    assert texture["tex_dir"].shape == (512, 512, 3, 200)
    own, uv = OpenHead.load().albedo_mean, OpenHead.load().uv()
    nose = 4
    row, column = int((1 - uv[nose, 1]) * 512), int(uv[nose, 0] * 512)
    assert np.abs(texture["mean"][row, column, ::-1] / 255 - own[nose]).max() < 0.03
