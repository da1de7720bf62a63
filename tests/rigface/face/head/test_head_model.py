"""Head model: FLAME's reference figures, and properties of any head."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rigface.errors import MissingAsset
from rigface.face.geometry.rotation import from_degrees, to_axis_angle, to_matrix
from rigface.face.head.flame import load_flame as load_flame
from rigface.face.head.head_model import Embedding, Head, contour_row
from rigface.types import FaceParams, HeadSpec


@pytest.fixture(scope="module")
def figures(fixtures):
    return load_file(fixtures / "flame" / "io.safetensors")


@pytest.fixture(scope="module")
def flame(fixtures):
    return load_flame(fixtures / "flame")


@pytest.fixture
def box():
    """A head of one joint and a square of four vertices, as the open head is laid out."""
    return Head.from_arrays(
        HeadSpec("box", "1", shape=1, expression=2, albedo=0),
        template=np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float64),
        shape_basis=np.ones((4, 3, 1)),
        expression_basis=np.zeros((4, 3, 2)),
        faces=np.array([[0, 1, 2], [0, 2, 3]]),
        landmarks=np.array([2, 0]),
    )


def posed(head, figures, **changes):
    pose = figures["pose"]
    arguments = dict(shape=figures["shape"], expression=figures["expression"])
    return head.vertices(**arguments | dict(head_rotation=pose[:, :3], jaw_rotation=pose[:, 3:]) | changes)


def test_vertices_match_flame(flame, figures):
    assert torch.allclose(posed(flame, figures), figures["vertices"], atol=1e-6)


def test_landmarks_match_flame(flame, figures):
    vertices = posed(flame, figures)
    assert torch.allclose(flame.landmarks.points(vertices), figures["landmarks3d_model"], atol=1e-6)
    moving = flame.landmarks2d(vertices, figures["pose"][:, :3])
    assert torch.allclose(moving, figures["landmarks2d_model"], atol=1e-6)


def test_contour_row_follows_the_yaw_within_the_table():
    yaw = torch.tensor([0.0, 0.4, 17.6, 39, 80, -1, -17.6, -39, -80])
    turn = from_degrees(torch.stack([yaw, 0 * yaw, 0 * yaw], -1))
    assert contour_row(turn).tolist() == [0, 0, 18, 39, 39, 40, 57, 78, 78]


def test_fewer_coefficients_are_the_first_ones(fixtures, flame, figures):
    small = load_flame(fixtures / "flame", shape=7, expression=3)
    assert (small.spec.shape, small.spec.expression) == (7, 3)
    got = posed(small, figures, shape=figures["shape"][:, :7], expression=figures["expression"][:, :3])
    padded = {k: figures[k] * (torch.arange(figures[k].shape[1]) < n) for k, n in (("shape", 7), ("expression", 3))}
    assert torch.allclose(got, posed(flame, figures, **padded), atol=1e-6)
    with pytest.raises(ValueError, match="1-300 shape and 1-100"):
        load_flame(fixtures / "flame", shape=301)


def test_neck_turns_like_the_head_at_their_joint(flame):
    """Turning the neck joint is turning the head about the neck: same rotation of the jaw and eye region."""
    zero, turn = torch.zeros(1, 3), torch.tensor([[0.0, 0.4, 0.0]])
    common = dict(shape=torch.zeros(1, 100), expression=torch.zeros(1, 50))
    bare = replace(flame, pose_basis=None)
    follows = flame.skinning[:, 1:].sum(1) > 0.999  # moved by the neck and what hangs on it alone
    assert follows.any()
    by_neck = bare.vertices(**common, head_rotation=zero, neck_rotation=turn)[0, follows]
    by_head = bare.vertices(**common, head_rotation=turn)[0, follows]
    apart = by_neck - by_head
    assert torch.allclose(apart, apart[:1].expand_as(apart), atol=1e-4)  # all moved by the same distance


def test_eye_rotation_moves_only_eye_vertices(flame):
    common = dict(shape=torch.zeros(1, 100), expression=torch.zeros(1, 50), head_rotation=torch.zeros(1, 3))
    bare = replace(flame, pose_basis=None)
    left = torch.tensor([[[0.0, 0.3, 0.0], [0, 0, 0]]])
    moved = (bare.vertices(**common, eye_rotations=left) - bare.vertices(**common))[0].norm(dim=-1) > 1e-7
    assert torch.equal(moved, moved & (flame.skinning[:, 3] > 0))
    assert moved.any()


def test_single_joint_turns_all_vertices_about_the_origin(box):
    turn = to_axis_angle(from_degrees(torch.tensor([[90.0, 0, 0]])))
    got = box.vertices(torch.zeros(1, 1), torch.zeros(1, 2), turn)
    assert torch.allclose(got, box.template @ to_matrix(turn)[0].T, atol=1e-6)
    assert torch.allclose(box.landmarks.points(got), got[:, [2, 0]])


def test_landmarks_may_lie_between_vertices(box):
    middle = replace(box, landmarks=Embedding(torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0, 0.5]])))
    assert torch.allclose(middle.landmarks.points(box.template[None]), torch.zeros(1, 1, 3))


def test_missing_part_of_a_head_is_named(box, tmp_path):
    zero = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="jaw rotation: the box head"):
        box.vertices(torch.zeros(1, 1), torch.zeros(1, 2), zero, jaw_rotation=zero)
    with pytest.raises(ValueError, match="no contour"):
        box.landmarks2d(box.template[None], zero)
    with pytest.raises(ValueError, match=r"Head.shape_basis: want \(4, 3, 1\)"):
        replace(box, shape_basis=torch.zeros(4, 3, 9))
    with pytest.raises(ValueError, match="parents before children"):
        replace(box, parents=(-1, 1))
    with pytest.raises(MissingAsset, match=r"generic_model\.pkl"):
        load_flame(tmp_path)


def test_face_params_pose_a_head(flame, box, figures):
    def params(n, shape, expression):
        return FaceParams(
            shape=torch.ones(n, shape),
            expression=torch.ones(n, expression),
            head_rotation=torch.full((n, 3), 0.1),
            jaw_rotation=torch.full((n, 3), 0.2),
            camera=torch.ones(n, 3),
            albedo=torch.zeros(n, 0),
            light=torch.zeros(n, 9, 3),
        )

    p = params(2, 100, 50)
    assert torch.equal(flame.of(p), flame.vertices(p.shape, p.expression, p.head_rotation, p.jaw_rotation))
    assert box.of(params(3, 1, 2)).shape == (3, 4, 3)


def test_gradients_reach_every_coefficient(flame, figures):
    head = flame.to(dtype=torch.float64)
    given = {k: torch.zeros(1, n, dtype=torch.float64) for k, n in (("shape", 100), ("expression", 50))}
    given |= {k: torch.zeros(1, 3, dtype=torch.float64) for k in ("head_rotation", "jaw_rotation", "neck_rotation")}
    given["eye_rotations"] = torch.zeros(1, 2, 3, dtype=torch.float64)
    target = torch.randn(162, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(**arguments):
        return (head.vertices(**arguments) * target).sum()

    for name, value in given.items():
        value = value.requires_grad_()
        (slope,) = torch.autograd.grad(loss(**given | {name: value}), value)
        step = torch.zeros_like(value)
        step.view(-1)[0] = 1e-5
        with torch.no_grad():
            finite = (loss(**given | {name: value + step}) - loss(**given | {name: value - step})) / 2e-5
        assert slope.view(-1)[0].item() == pytest.approx(finite.item(), rel=1e-5, abs=1e-9), name
        assert slope.abs().max() > 0, name
