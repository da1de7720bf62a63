"""Geometric fit on landmarks with known coefficients."""

import numpy as np
import pytest
import torch

from rigface.face.geometry.procrustes import procrustes
from rigface.face.geometry.rotation import angle_between, from_degrees, to_degrees
from rigface.face.head.open_head import OpenHead
from rigface.face.reconstruction.landmark_fit import GeometryFitter, arrow_solve

PEOPLE, FRAMES = 3, 4


@pytest.fixture(scope="module")
def model() -> OpenHead:
    return OpenHead.load()


@pytest.fixture(scope="module")
def known(model) -> dict[str, torch.Tensor]:
    """Twelve faces of three people with known coefficients, projected to landmarks of a 512 px crop."""
    random = torch.Generator().manual_seed(0)
    count = PEOPLE * FRAMES
    tracks = torch.arange(PEOPLE).repeat_interleave(FRAMES)
    shape = (0.8 * torch.randn(PEOPLE, model.spec.shape, generator=random))[tracks]
    expression = 0.6 * torch.rand(count, model.spec.expression, generator=random) ** 2
    degrees = (torch.rand(count, 3, generator=random) - 0.5) * torch.tensor([50.0, 30.0, 30.0])
    points = (
        torch.from_numpy(model.template)
        + torch.einsum("nk,kvi->nvi", shape, torch.from_numpy(model.shape))
        + torch.einsum("nk,kvi->nvi", expression, torch.from_numpy(model.expression))
    )
    rotation = from_degrees(degrees)
    camera = 6.0 * (points @ rotation.mT)
    x, y, z = camera.unbind(-1)
    landmarks = torch.stack([(x + 1.05) * 256, (0.9 - y) * 256, -z * 256], -1)
    return dict(
        landmarks=landmarks, scores=expression, tracks=tracks, shape=shape, expression=expression, rotation=rotation
    )


def fitted(model, known, **changed):
    inputs = {**known, **changed}
    return GeometryFitter(model)(inputs["landmarks"], inputs["scores"], inputs["tracks"])


def test_fit_recovers_known_coefficients(model, known):
    fit = fitted(model, known)
    assert torch.rad2deg(angle_between(fit.rotation, known["rotation"])).max() < 0.5
    assert (fit.scale - 6).abs().max() < 0.05
    assert fit.residual.max() < 2e-3
    assert (fit.expression - known["expression"]).abs().mean() < 0.05
    found = torch.nn.functional.cosine_similarity(fit.shape, known["shape"])
    assert found.min() > 0.9


def test_landmarks_correct_a_wrong_score(model, known):
    names = model.spec.expression_names
    jaw = names.index("jawOpen")
    scores = known["scores"].clone()
    scores[:, jaw] = 0
    fit = fitted(model, known, scores=scores)
    wide = known["expression"][:, jaw] > 0.2
    assert (fit.expression[wide, jaw] > 0.1).all()


def test_shape_is_shared_within_a_track_only(model, known):
    fit = fitted(model, known)
    by_track = fit.shape.view(PEOPLE, FRAMES, -1)
    assert (by_track - by_track[:, :1]).abs().max() < 1e-4
    assert (by_track[0, 0] - by_track[1, 0]).abs().max() > 0.5


def test_fit_is_independent_of_the_batch(model, known):
    alone = GeometryFitter(model)(known["landmarks"][:FRAMES], known["scores"][:FRAMES], known["tracks"][:FRAMES])
    crowd = fitted(model, known)
    assert (alone.shape - crowd.shape[:FRAMES]).abs().max() < 1e-2
    assert (alone.points - crowd.points[:FRAMES]).abs().max() < 1e-5


def test_scale_and_shift_change_the_camera_only(model, known):
    landmarks = known["landmarks"] * 0.7
    landmarks[..., 0] += 40
    landmarks[..., 1] += 25
    plain, moved = fitted(model, known), fitted(model, known, landmarks=landmarks)
    assert (moved.scale / plain.scale - 0.7).abs().max() < 1e-3
    assert (moved.shift - plain.shift).abs().max() > 0.05
    assert torch.rad2deg(angle_between(moved.rotation, plain.rotation)).max() < 0.05
    assert (moved.expression - plain.expression).abs().max() < 1e-2
    assert (moved.shape - plain.shape).abs().max() < 5e-2


def test_mirrored_landmarks_give_the_mirrored_face(model, known):
    names = model.spec.expression_names
    swap = [names.index(n.replace("Left", "#").replace("Right", "Left").replace("#", "Right")) for n in names]
    landmarks = known["landmarks"][:, torch.from_numpy(model.mirror).long()].clone()
    landmarks[..., 0] = 512 - landmarks[..., 0]
    plain, image = fitted(model, known), fitted(model, known, landmarks=landmarks, scores=known["scores"][:, swap])
    degrees, mirrored_degrees = to_degrees(plain.rotation), to_degrees(image.rotation)
    assert (degrees * torch.tensor([-1.0, 1.0, -1.0]) - mirrored_degrees).abs().max() < 0.1
    assert (image.expression - plain.expression[:, swap]).abs().max() < 2e-2
    expected = plain.points[:, torch.from_numpy(model.mirror).long()] * torch.tensor([-1.0, 1, 1])
    assert (image.points - expected).abs().max() < 2e-4  # metres


def test_fit_is_stable_under_landmark_noise(model, known):
    noise = torch.randn(known["landmarks"].shape, generator=torch.Generator().manual_seed(1))
    plain, noisy = fitted(model, known), fitted(model, known, landmarks=known["landmarks"] + 0.5 * noise)
    assert torch.rad2deg(angle_between(plain.rotation, noisy.rotation)).max() < 0.3
    assert (plain.expression - noisy.expression).abs().mean() < 0.03


def test_arrow_solve_equals_the_dense_solution():
    random = torch.Generator().manual_seed(0)
    n, k, shared = 4, 5, 2
    half = torch.randn(n, k, k, generator=random, dtype=torch.double)
    normal = half @ half.mT + torch.eye(k)
    right = torch.randn(n, k, generator=random, dtype=torch.double)
    found = arrow_solve(normal, right, shared, torch.zeros(n, dtype=torch.long), torch.ones(n))
    size = shared + n * (k - shared)
    whole, pull = torch.zeros(size, size, dtype=torch.double), torch.zeros(size, dtype=torch.double)
    for i in range(n):
        own = slice(shared + i * (k - shared), shared + (i + 1) * (k - shared))
        whole[:shared, :shared] += normal[i, :shared, :shared] - torch.eye(shared)
        whole[:shared, own] = normal[i, :shared, shared:]
        whole[own, :shared] = normal[i, shared:, :shared]
        whole[own, own] = normal[i, shared:, shared:]
        pull[:shared] += right[i, :shared]
        pull[own] = right[i, shared:]
    whole[:shared, :shared] += torch.eye(shared)
    answer = torch.linalg.solve(whole, pull)
    assert torch.allclose(found[:, :shared], answer[:shared].expand(n, -1))
    assert torch.allclose(found[:, shared:].reshape(-1), answer[shared:])


def test_procrustes_of_flat_points_is_a_proper_rotation():
    flat = torch.randn(1, 30, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 1e-3])
    truth = from_degrees(torch.tensor([[30.0, 10.0, 5.0]]))
    rotation, scale = procrustes(flat, 2 * flat @ truth.mT)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(1), atol=1e-4)
    assert torch.rad2deg(angle_between(rotation, truth)).max() < 0.1
    assert torch.allclose(scale, torch.tensor([2.0]), atol=1e-3)


def test_mismatched_rows_are_refused(model, known):
    with pytest.raises(ValueError, match="one score row and track per face"):
        GeometryFitter(model)(known["landmarks"], known["scores"][:2], known["tracks"])
    assert np.isfinite(known["landmarks"].numpy()).all()
