"""PCA autoencoder: linear, and exact with all components."""

import numpy as np
import pytest
import torch

from rigface.model.latents import decode, encode, patch, shrinkage
from rigface.model.pca_autoencoder import GROUPS, components, patch_autoencoder
from rigface.model.pipeline import RigFacePipeline


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """(12, 32, 32, 3) uint8: smooth colours with a little grain, as photographs are."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(0, 255, (12, 3, 5, 5))).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").permute(0, 2, 3, 1).numpy()
    return (smooth + random.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def vae(pictures):
    return patch_autoencoder(components(pictures, 4, 12), size=32)


def test_components_cover_squares_and_mirror_images(pictures):
    parts = components(pictures, 4, 48)
    np.testing.assert_allclose(parts.basis @ parts.basis.T, np.eye(48), atol=1e-4)
    assert (np.diff(parts.spread) <= 1e-6).all()
    assert parts.lost == 0
    folded = torch.nn.functional.pixel_unshuffle(2 * tensor(pictures) - 1, 4).permute(0, 2, 3, 1).reshape(-1, 48)
    mirrored = torch.nn.functional.pixel_unshuffle(2 * tensor(pictures).flip(-1) - 1, 4).permute(0, 2, 3, 1)
    squares = torch.cat([folded, mirrored.reshape(-1, 48)]).numpy()
    np.testing.assert_allclose(parts.mean, squares.mean(0), atol=1e-4)
    np.testing.assert_allclose(((squares - parts.mean) @ parts.basis.T).std(0), parts.spread, rtol=1e-2)


def test_all_components_reconstruct_the_picture(pictures):
    whole = patch_autoencoder(components(pictures, 4, 48), size=32)
    expected = tensor(pictures)
    with torch.no_grad():
        torch.testing.assert_close(decode(whole, encode(whole, expected)), expected, atol=2e-3, rtol=0)


def test_reconstruction_error_equals_lost_components(pictures, vae):
    expected, parts = 2 * tensor(pictures) - 1, components(pictures, 4, 12)
    with torch.no_grad():
        restored = 2 * decode(vae, encode(vae, (expected + 1) / 2)) - 1
    assert (restored - expected).square().mean().item() == pytest.approx(parts.lost, rel=0.1)


def test_latents_are_linear_in_the_picture(pictures, vae):
    a, b = tensor(pictures[:2]), tensor(pictures[2:4])
    with torch.no_grad():
        between = encode(vae, 0.3 * a + 0.7 * b)
        torch.testing.assert_close(between, 0.3 * encode(vae, a) + 0.7 * encode(vae, b), atol=2e-3, rtol=0)


def test_half_precision_gives_nearly_the_same(pictures, vae):
    expected = tensor(pictures)
    with torch.no_grad():
        restored = decode(vae, encode(vae, expected))
        with torch.autocast("cpu", torch.bfloat16):
            coarse = decode(vae, encode(vae, expected)).float()
    assert (coarse - restored).abs().mean() < 4e-3


def test_window_decodes_like_the_whole(pictures, vae):
    """For losses on windows: no pixel outside has an effect."""
    with torch.no_grad():
        latents = encode(vae, tensor(pictures))
        inside = decode(vae, latents[..., 2:6, 2:6])
        torch.testing.assert_close(decode(vae, latents)[..., 8:24, 8:24], inside, atol=1e-3, rtol=0)


def test_patch_and_shrinkage_are_reported_and_wrong_size_is_refused(vae):
    assert (patch(vae), shrinkage(vae)) == (4, 4)
    with pytest.raises(RuntimeError):
        encode(vae, torch.zeros(1, 3, 30, 30))


@pytest.mark.parametrize("count", [0, 49])
def test_more_components_than_numbers_are_refused(pictures, count):
    with pytest.raises(ValueError, match="want 1 to 48"):
        components(pictures, 4, count)


def test_component_count_not_multiple_of_groups_is_refused(pictures):
    with pytest.raises(ValueError, match=f"multiple of {GROUPS}"):
        patch_autoencoder(components(pictures, 4, 10), size=32)


def test_no_picture_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        components([], 4, 8)


def test_plain_autoencoder_has_patch_one():
    tiny = RigFacePipeline.from_pretrained("tiny").vae
    assert patch(tiny) == 1
