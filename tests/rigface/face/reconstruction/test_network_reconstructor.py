"""Networks as reconstructors, with made-up weights that answer with a plain frontal face."""

import re
from functools import cache

import numpy as np
import pytest
import torch

from rigface.errors import MissingAsset
from rigface.face.geometry import official_crops
from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.landmarks import LAYOUTS, sixty_eight
from rigface.face.head.open_head import OpenHead
from rigface.face.reconstruction.network_reconstructor import NETWORKS, NetworkReconstructor, checkpoint_in
from rigface.face.reconstruction.reconstructor import load_reconstructor
from rigface.testing.official.flame import write_flame, write_flame_texture
from rigface.testing.official.networks import write_deca, write_emoca, write_smirk
from rigface.types import DetectorSpec

DETECTOR = DetectorSpec("mediapipe", "1", 478)
PX = 1750  # per metre, of the faces below


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An assets folder: FLAME without a texture, and the networks."""
    folder = tmp_path_factory.mktemp("assets")
    write_flame(folder / "flame", texture=False)
    write_deca(folder / "deca" / "deca_model.tar")
    write_smirk(folder / "smirk" / "SMIRK_em1.pt")
    write_emoca(folder / "emoca")
    return folder


@pytest.fixture(scope="module")
def faces(fixtures):
    """Three crops, and the open head's landmarks in them: in the middle, to the left, smaller."""
    picture = np.load(fixtures / "official" / "bisenet.npz")["picture"]
    crops = [picture, picture[:, ::-1].copy(), np.rot90(picture).copy()]
    points = np.zeros((478, 3))
    points[:468] = OpenHead.load().template * PX * [1, -1, -1]
    landmarks = [points * k + [256 + x, 270, 0] for k, x in ((1, 0), (1, -20), (0.8, 10))]
    return crops, np.stack(landmarks).astype(np.float32)


def load(name, folder=None, **counts):
    return load_reconstructor(name, "flame", folder=folder, detector=DETECTOR, **counts)


@pytest.fixture(scope="module")
def loaded(folder):
    """A network by name, read once; its answers depend on nothing but the crops and landmarks."""
    return cache(lambda name: load(name, folder))


@pytest.fixture(scope="module")
def fitted(loaded, faces):
    """What a network makes of the three faces, by name."""
    return cache(lambda name: reconstructed(loaded(name), *faces))


def reconstructed(reconstructor, crops, landmarks, tracks=None):
    return reconstructor(crops, landmarks, None, np.arange(len(crops)) if tracks is None else tracks)


@pytest.mark.parametrize("name", ["deca", "emoca", "smirk"])
def test_faces_are_the_same_alone_and_in_a_batch(loaded, fitted, faces, name):
    reconstructor, fit = loaded(name), fitted(name)
    spec = reconstructor.head_spec
    assert fit.params.shape.shape == (3, spec.shape)
    assert fit.params.albedo.shape == (3, spec.albedo)
    assert fit.params.light.dtype == np.float32
    assert np.ptp(fit.params.expression, axis=0).max() > 0
    for i in range(3):
        alone = reconstructed(reconstructor, faces[0][i : i + 1], faces[1][i : i + 1])
        assert np.abs(alone.params.expression - fit.params.expression[i]).max() < 1e-4
        assert np.abs(alone.params.camera - fit.params.camera[i]).max() < 1e-4
        assert alone.landmark_residual[0] == pytest.approx(fit.landmark_residual[i], abs=1e-4)
        assert alone.photometric_residual[0] == pytest.approx(fit.photometric_residual[i], abs=1e-3)


@pytest.mark.parametrize("name", ["deca", "smirk"])
def test_the_head_lies_where_the_network_saw_it_in_its_crop(loaded, fitted, faces, name):
    reconstructor, params = loaded(name), fitted(name).params
    rule = reconstructor._rule
    squares = official_crops.square_around(sixty_eight(faces[1])[..., :2] - 0.5, rule)
    with torch.inference_mode():
        codes = reconstructor._network(official_crops.flame_crops(faces[0], squares, rule))
        vertices = reconstructor._head.of(params.map(torch.from_numpy))
    in_square = to_crop_px(project(vertices, codes.camera)[..., :2], official_crops.FLAME_PX).numpy()
    affines = official_crops.square_affine(squares)
    ours = to_crop_px(project(vertices, torch.from_numpy(params.camera))[..., :2]).numpy()
    assert np.abs(ours @ affines[:, :, :2].mT + affines[:, None, :, 2] - in_square).max() < 1e-2


def test_residual_is_small_for_a_face_that_fits_and_grows_with_a_wrong_place(loaded, fitted, faces):
    good = fitted("deca").landmark_residual
    assert (good < 0.2).all()
    moved = faces[1].copy()
    moved[:, LAYOUTS[478].sixty_eight[30], 0] += 60
    assert (reconstructed(loaded("deca"), faces[0], moved).landmark_residual > good).all()


def test_faces_of_a_track_share_shape_and_albedo(loaded, fitted, faces):
    own = fitted("deca").params
    shared = reconstructed(loaded("deca"), *faces, np.array([7, 3, 7])).params
    np.testing.assert_allclose(shared.shape[[0, 2]], np.repeat(own.shape[[0, 2]].mean(0)[None], 2, 0), atol=1e-5)
    np.testing.assert_allclose(shared.shape[1], own.shape[1], atol=1e-5)
    assert (shared.albedo[0] == shared.albedo[2]).all()
    assert np.array_equal(shared.expression, own.expression)


def test_smaller_copies_give_nearly_the_same(loaded, fitted, faces):
    small = [crop.reshape(256, 2, 256, 2, 3).mean((1, 3)).astype(np.uint8) for crop in faces[0]]
    whole, half = fitted("deca").params, reconstructed(loaded("deca"), small, faces[1]).params
    np.testing.assert_allclose(half.camera, whole.camera, rtol=0.02, atol=2e-3)
    assert np.abs(half.expression - whole.expression).mean() < 0.2 * np.abs(whole.expression).mean()


def test_smirk_has_lids_and_300_shapes_and_its_light_is_fitted(loaded, fitted):
    reconstructor, params = loaded("smirk"), fitted("smirk").params
    assert reconstructor.head_spec.shape == 300
    assert params.eyelids.shape == (3, 2)
    assert (params.light[:, 0] > 0).all()
    assert re.fullmatch("smirk-[0-9a-f]{12}, albedo and light by fit 3", reconstructor.version)


@pytest.mark.slow
def test_decas_own_light_and_texture_are_kept_where_the_texture_is(folder, faces, tmp_path):
    for path in (folder / "flame").iterdir():
        (tmp_path / path.name).symlink_to(path)
    write_flame_texture(tmp_path)
    (tmp_path / "deca_model.tar").symlink_to(folder / "deca" / "deca_model.tar")
    reconstructor = load("deca", tmp_path)
    fit = reconstructed(reconstructor, *faces)
    squares = official_crops.square_around(sixty_eight(faces[1])[..., :2] - 0.5, official_crops.DECA)
    with torch.inference_mode():
        codes = reconstructor._network(official_crops.flame_crops(faces[0], squares, official_crops.DECA))
    assert reconstructor.head_spec.albedo == 50
    assert re.fullmatch("deca-[0-9a-f]{12}", reconstructor.version)
    np.testing.assert_allclose(fit.params.albedo, codes.texture, atol=1e-4)
    np.testing.assert_allclose(fit.params.light, codes.light, atol=1e-4)
    assert ((fit.photometric_residual > 0) & (fit.photometric_residual < 1)).all()
    assert ((fit.occlusion >= 0) & (fit.occlusion <= 1)).all()


def test_rigfaces_deca_has_the_wider_crop():
    assert NETWORKS["deca-rigface"].rule.growth / NETWORKS["deca"].rule.growth == pytest.approx(1.3 / 1.25)


def test_more_coefficients_than_the_network_has_are_zero(folder, faces):
    params = reconstructed(load("deca", folder, shape=120, expression=60), *faces).params
    assert params.shape.shape == (3, 120)
    assert not params.shape[:, 100:].any()
    assert not params.expression[:, 50:].any()
    assert params.expression[:, :50].any()


@pytest.mark.parametrize("place", [256.0, np.nan])
def test_coincident_or_missing_landmarks_are_accepted(loaded, faces, place):
    fit = reconstructed(loaded("deca"), faces[0][:1], np.full((1, 478, 3), place, np.float32))
    assert np.isfinite(fit.params.expression).all()


def test_a_detector_without_landmarks_is_refused(loaded):
    with pytest.raises(ValueError, match="478 or 106 or 468 of them, boxes gives 0"):
        loaded("deca").check(DetectorSpec("boxes", "1", 0))


def test_points_of_insightface_will_do(loaded, faces):
    points = np.zeros((1, 106, 3), np.float32)
    points[:, list(LAYOUTS[106].sixty_eight)] = sixty_eight(faces[1][:1])
    reconstructor = loaded("deca")
    fit = reconstructed(reconstructor, faces[0][:1], points)
    np.testing.assert_allclose(
        fit.params.camera, reconstructed(reconstructor, faces[0][:1], faces[1][:1]).params.camera
    )


def test_another_flame_is_refused(folder, tmp_path):
    for path in (folder / "flame").iterdir():
        (tmp_path / path.name.replace("generic_model", "flame2023")).symlink_to(path)
    with pytest.raises(MissingAsset, match=r"FLAME 2020, want generic_model\.pkl; .* has flame2023\.pkl"):
        load("deca", tmp_path)
    with pytest.raises(MissingAsset, match=r"FLAME 2020"):
        load("deca", tmp_path / "flame2023.pkl")


def test_another_head_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"no reconstructor 'deca' for the head 'open'.*deca, deca-rigface, emoca, smirk"
    ):
        load_reconstructor("deca", "open", folder=folder)
    with pytest.raises(ValueError, match="100 of shape and 50 of expression; the head 'open' has"):
        NetworkReconstructor("deca", OpenHead.load().head(), folder)


def test_a_missing_network_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RIGFACE_ASSETS", str(tmp_path))
    (tmp_path / "flame").symlink_to(folder / "flame")
    with pytest.raises(MissingAsset, match=r"deca_model\.tar"):
        load("deca")


def test_the_checkpoint_of_the_detail_stage_is_taken(tmp_path):
    for name in ("coarse/a.ckpt", "detail/checkpoints/b.ckpt", "z/c.ckpt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert checkpoint_in(tmp_path).name == "b.ckpt"
