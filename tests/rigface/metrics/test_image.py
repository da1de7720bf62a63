"""Picture metrics against closed forms and against the same sum written out by hand."""

import numpy as np
import pytest

from rigface.metrics import image


def noise(seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).random((size, size, 3))


def test_equal_pictures_are_equal():
    picture = (noise() * 255).astype(np.uint8)
    assert image.psnr(picture, picture) == float("inf")
    assert image.ssim(picture, picture) == pytest.approx(1)


def test_psnr_of_a_constant_difference():
    a = np.full((8, 8, 3), 100, np.uint8)
    assert image.psnr(a, a + np.uint8(51)) == pytest.approx(-20 * np.log10(0.2))
    assert image.psnr(noise() * 0, noise() * 0 + 0.1) == pytest.approx(20)


def test_psnr_counts_masked_pixels_only():
    a = np.zeros((8, 8, 3))
    b = a.copy()
    b[:4] = 1
    lower = np.zeros((8, 8), bool)
    lower[4:] = True
    assert image.psnr(a, b, lower) == float("inf")
    assert image.psnr(a, b, ~lower) == pytest.approx(0)
    assert np.isnan(image.psnr(a, b, np.zeros((8, 8), bool)))


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.2), (0.2, 0.8), (0.0, 1.0)])
def test_ssim_of_flat_pictures_is_its_luminance_term(a, b):
    want = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    assert image.ssim(np.full((16, 16, 3), a), np.full((16, 16, 3), b)) == pytest.approx(want)


def test_ssim_of_one_window_written_out():
    a, b = noise(1, 11), noise(2, 11)
    at = np.arange(11) - 5
    weight = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    weight = (weight / weight.sum())[..., None]
    ma, mb = (weight * a).sum((0, 1)), (weight * b).sum((0, 1))
    va, vb = (weight * (a - ma) ** 2).sum((0, 1)), (weight * (b - mb) ** 2).sum((0, 1))
    cov = (weight * (a - ma) * (b - mb)).sum((0, 1))
    c1, c2 = 1e-4, 9e-4
    want = ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()
    assert image.ssim(a, b) == pytest.approx(want, rel=1e-9)


def test_ssim_of_a_weaker_copy_is_the_contrast_term_alone():
    a = noise(3, 40)
    from scipy.ndimage import gaussian_filter  # an independent window: 11 taps, sigma 1.5

    def mean(x):
        return gaussian_filter(x, (1.5, 1.5, 0), truncate=5 / 1.5)[5:-5, 5:-5]

    b = 0.5 * a
    ma, var = mean(a), mean(a * a) - mean(a) ** 2
    want = (ma * ma + 1e-4) / (1.25 * ma * ma + 1e-4) * (var + 9e-4) / (1.25 * var + 9e-4)
    assert image.ssim(a, b) == pytest.approx(want.mean(), rel=1e-6)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        image.psnr(noise(size=8), noise(size=9))
    with pytest.raises(ValueError, match="at least 11 px"):
        image.ssim(noise(size=8), noise(size=8))


def test_shrinking_averages_and_never_enlarges():
    chess = np.indices((64, 48)).sum(0) % 2 * np.ones((3, 1, 1))
    chess = (np.moveaxis(chess, 0, -1) * 255).astype(np.uint8)
    small = image.resized(chess, 24)
    assert small.shape == (32, 24, 3)
    assert np.abs(small.astype(int) - 127).max() <= 1
    assert image.resized(chess, 500) is chess


def test_background_is_what_neither_person_nor_margin_covers():
    a, b = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    a[40:60, 10:30] = True
    b[40:60, 60:80] = True
    free = image.background(a, b, dilation=0.05)
    assert free[50, 45]
    assert not free[50, 32]
    assert not free[50, 20]
    assert not free[50, 83]
    assert free[5, 5]
    assert not image.background(np.ones((10, 10)), np.zeros((10, 10))).any()


def test_frechet_of_two_gaussians_is_its_closed_form():
    mean_a, mean_b = np.array([0.0, 1.0]), np.array([3.0, -3.0])
    a, b = np.diag([4.0, 9.0]), np.diag([1.0, 25.0])
    want = 25 + (2 - 1) ** 2 + (3 - 5) ** 2  # diagonal: sum of squared differences of standard deviations
    assert image.frechet_of_gaussians(mean_a, a, mean_b, b) == pytest.approx(want)


def test_frechet_does_not_depend_on_the_axes():
    random = np.random.default_rng(5)
    turn = np.linalg.qr(random.normal(size=(4, 4)))[0]
    a, b = (m @ m.T for m in random.normal(size=(2, 4, 4)))
    zero = np.zeros(4)
    plain = image.frechet_of_gaussians(zero, a, zero, b)
    assert image.frechet_of_gaussians(zero, turn @ a @ turn.T, zero, turn @ b @ turn.T) == pytest.approx(plain)
    assert plain == pytest.approx(image.frechet_of_gaussians(zero, b, zero, a))


def test_frechet_of_sets_measures_a_shift_only():
    crowd = np.random.default_rng(6).normal(size=(500, 3))
    assert image.frechet(crowd, crowd) == pytest.approx(0, abs=1e-9)
    assert image.frechet(crowd, crowd + np.array([2, 0, 0])) == pytest.approx(4)
    assert np.isnan(image.frechet(crowd[:1], crowd))


def test_kernel_distance_is_unbiased_and_measures_a_shift():
    random = np.random.default_rng(7)
    same = [image.kernel_distance(random.normal(size=(60, 4)), random.normal(size=(60, 4))) for _ in range(60)]
    far = [image.kernel_distance(random.normal(size=(60, 4)), random.normal(size=(60, 4)) + 1) for _ in range(10)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
    assert np.mean(far) > 10 * np.std(same)
