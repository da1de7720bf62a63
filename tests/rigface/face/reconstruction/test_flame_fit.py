"""FLAME from landmarks: coefficients that made the landmarks are found again, on the open head in FLAME's files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.rotation import angle_between, from_degrees, to_axis_angle, to_matrix
from rigface.face.head.flame import load_flame
from rigface.face.head.head_model import part_of
from rigface.face.reconstruction.flame_fit import IRISES, FlameGeometryFitter, correspondence
from rigface.testing.official.flame import FLAME_2023_NO_JAW, write_flame
from rigface.types import FaceParams


@pytest.fixture(scope="module")
def flame(tmp_path_factory):
    return load_flame(write_flame(tmp_path_factory.mktemp("flame"), steps=1, texture=False))


@pytest.fixture(scope="module")
def fitter(flame):
    return FlameGeometryFitter(flame)


def faces(head, count=6, seed=0):
    """Faces of one person with all that varies from frame to frame."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=draw)

    yaw_pitch_roll = normal(count, 3) * torch.tensor([15.0, 10.0, 8.0])
    jaw = torch.cat([torch.rand(count, 1, generator=draw) * 0.25, normal(count, 2) * 0.01], 1)
    return FaceParams(
        shape=normal(1, head.spec.shape).expand(count, -1) * (torch.arange(head.spec.shape) < 20),
        expression=normal(count, head.spec.expression),
        head_rotation=to_axis_angle(from_degrees(yaw_pitch_roll)),
        jaw_rotation=jaw if head.jaw is not None else 0 * jaw,
        camera=torch.tensor([6.0, 0.01, -0.02]) + normal(count, 3) * torch.tensor([0.3, 0.01, 0.01]),
        albedo=torch.zeros(count, 0),
        light=torch.zeros(count, 9, 3),
        eyelids=torch.rand(count, 2, generator=draw) if head.eyelids is not None else None,
    )


def landmarks_of(head, params):
    """(N, 468, 3) the points of the head at which MediaPipe's landmarks are, crop px."""
    return to_crop_px(project(head.of(params)[:, :468], params.camera))


def refitted(head, geometry):
    return FaceParams(
        shape=geometry.shape,
        expression=geometry.expression,
        head_rotation=to_axis_angle(geometry.rotation),
        jaw_rotation=to_axis_angle(geometry.jaw),
        camera=geometry.camera,
        albedo=torch.zeros(len(geometry.shape), 0),
        light=torch.zeros(len(geometry.shape), 9, 3),
        eyelids=geometry.lids if head.eyelids is not None else None,
    )


def test_landmarks_of_known_coefficients_are_met(flame, fitter):
    truth = faces(flame)
    geometry = fitter(landmarks_of(flame, truth), torch.zeros(6, dtype=torch.int64))
    assert geometry.residual.max() < 0.006
    turned = angle_between(geometry.rotation, to_matrix(truth.head_rotation))
    assert turned.rad2deg().max() < 1.5
    found = refitted(flame, geometry)
    error = (landmarks_of(flame, found) - landmarks_of(flame, truth))[..., :2].norm(dim=-1)
    assert error.mean() < 0.5  # px of the crop: what `Head.of` and the camera make of the coefficients is the picture


def test_faces_of_a_track_share_their_shape(flame, fitter):
    points = landmarks_of(flame, faces(flame))
    geometry = fitter(points, torch.tensor([3, 3, 3, 8, 8, 8]))
    assert torch.equal(geometry.shape[0], geometry.shape[2])
    assert torch.equal(geometry.shape[3], geometry.shape[5])
    assert not torch.allclose(geometry.shape[0], geometry.shape[3])
    alone = fitter(points[:3], torch.zeros(3, dtype=torch.int64))
    assert torch.allclose(alone.shape, geometry.shape[:3], atol=1e-3)


def test_closed_lids_are_told_from_open_ones(flame, fitter):
    truth = replace(faces(flame), expression=torch.zeros(6, flame.spec.expression))
    wide = replace(truth, eyelids=torch.zeros(6, 2))
    shut = replace(truth, eyelids=torch.tensor([1.0, 0.0]).expand(6, 2))
    track = torch.zeros(6, dtype=torch.int64)
    opened, closed = (fitter(landmarks_of(flame, params), track).lids for params in (wide, shut))
    assert ((closed - opened)[:, 0] > 0.3).all()
    assert ((closed - opened)[:, 1].abs() < 0.15).all()


def test_opened_jaw_is_a_turn_of_the_jaw(flame, fitter):
    rest = replace(faces(flame), expression=torch.zeros(6, flame.spec.expression), jaw_rotation=torch.zeros(6, 3))
    opened = replace(rest, jaw_rotation=torch.tensor([0.3, 0.0, 0.0]).expand(6, 3))
    found = fitter(landmarks_of(flame, opened), torch.zeros(6, dtype=torch.int64))
    assert (to_axis_angle(found.jaw)[:, 0] > 0.1).all()
    assert fitter(landmarks_of(flame, rest), torch.zeros(6, dtype=torch.int64)).jaw[:, 2, 1].abs().max() < 0.05


def test_model_without_jaw_is_fitted_without(tmp_path):
    head = load_flame(write_flame(tmp_path, FLAME_2023_NO_JAW, steps=0, texture=False))
    geometry = FlameGeometryFitter(head)(landmarks_of(head, faces(head)), torch.zeros(6, dtype=torch.int64))
    assert torch.equal(geometry.jaw, torch.eye(3).expand(6, 3, 3))
    assert geometry.residual.max() < 0.006


def test_any_number_of_coefficients_is_fitted(tmp_path):
    folder = write_flame(tmp_path, steps=0, texture=False)
    (tmp_path / "l_eyelid.npy").unlink()
    (tmp_path / "mediapipe_landmark_embedding.npz").unlink()
    for shape, expression in ((10, 1), (300, 100)):
        head = load_flame(folder, shape, expression)
        geometry = FlameGeometryFitter(head)(landmarks_of(head, faces(head, 3)), torch.arange(3))
        assert geometry.shape.shape == (3, shape)
        assert geometry.expression.shape == (3, expression)
        assert geometry.lids.shape == (3, 0)


def test_published_points_take_precedence_over_computed_ones(flame):
    points, weights, places = correspondence(flame)
    published = flame.mediapipe_points
    assert np.array_equal(points[: len(published)], published)
    assert torch.equal(places.vertices[: len(published)], flame.mediapipe.vertices)
    assert (weights[: len(published)] == 1).all()
    bare = correspondence(replace(flame, mediapipe=None, mediapipe_points=None))
    assert len(set(bare[0].tolist())) == len(bare[0]) > 300
    laid = bare[2].points(flame.template[None])[0] - flame.template[bare[0]]
    assert laid.norm(dim=-1).max() < 1e-4  # laid over itself, each landmark is at its own vertex


def test_eyeballs_turn_towards_the_irises(flame):
    """Two eyeballs are put in, each a vertex 12 mm before its joint."""
    joints = torch.einsum("jv,vc->jc", flame.joint_regressor, flame.template)
    skinning, template = flame.skinning.clone(), flame.template.clone()
    bases = [flame.shape_basis.clone(), flame.expression_basis.clone(), flame.pose_basis.clone()]
    for vertex, eye in ((1800, 3), (1801, 4)):
        skinning[vertex] = torch.nn.functional.one_hot(torch.tensor(eye), 5).float()
        template[vertex] = joints[eye] + torch.tensor([0.0, 0.0, 0.012])
        for basis in bases:
            basis[vertex] = 0
    spec = replace(flame.spec, extras=("eye_rotations",))
    names = ("shape_basis", "expression_basis", "pose_basis")
    head = replace(flame, spec=spec, skinning=skinning, template=template, **dict(zip(names, bases)))
    rest = replace(faces(head, 2), shape=torch.zeros(2, 100), expression=torch.zeros(2, 50))
    rest = replace(rest, jaw_rotation=torch.zeros(2, 3), eyelids=torch.zeros(2, 2))
    turns = torch.tensor([[[0.0, 0.3, 0.0], [0.0, 0.25, 0.0]], [[-0.2, 0.0, 0.0], [-0.2, 0.1, 0.0]]])
    points = torch.zeros(2, 478, 3)
    points[:, :468] = landmarks_of(head, rest)
    seen = to_crop_px(project(head.of(replace(rest, eye_rotations=turns)), rest.camera))
    points[:, list(IRISES)] = seen[:, [1800, 1801]]
    found = FlameGeometryFitter(head)(points, torch.arange(2)).eyes
    assert (found - turns).abs().max() < 0.12
    assert FlameGeometryFitter(head)(points[:, :468], torch.arange(2)).eyes is None


def test_part_of_a_head_poses_as_the_whole(flame):
    params = faces(flame, 2)
    kept = torch.tensor([700, 3, 468])
    assert torch.allclose(part_of(flame, kept).of(params)[:, :3], flame.of(params)[:, kept], atol=1e-6)


def test_tracks_must_match_the_faces(flame, fitter):
    with pytest.raises(ValueError, match="one track per face, got 2 faces and 1"):
        fitter(landmarks_of(flame, faces(flame, 2)), torch.zeros(1, dtype=torch.int64))


def test_empty_batch_passes(flame, fitter):
    geometry = fitter(torch.zeros(0, 478, 3), torch.zeros(0, dtype=torch.int64))
    assert geometry.shape.shape == (0, 100)
    assert geometry.camera.shape == (0, 3)
