"""Image metrics: PSNR, SSIM, background, Fréchet and kernel distances.

Path: an output and the true frame -> the picture columns; outputs and photographs as feature vectors -> Fréchet.
Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004 (Gaussian window
of 11 px, sigma 1.5, K = 0.01 and 0.03, the window always whole inside the picture); Heusel et al. 2017 (Fréchet
distance); Bińkowski et al. 2018 (kernel distance).

Pictures are (H, W, 3) uint8, or float in [0, 1]; `data_range` is 1 everywhere. Distances that need a trained network
(LPIPS, FID) are in `perceptual.py`.
"""

import cv2
import numpy as np

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
CLEAR = 0.02  # share of a picture that must be left outside the masks for a background to be measured
DILATION = 0.03  # of the shorter side: hair's rim and the softness of a pasted edge


def unit(image: np.ndarray) -> np.ndarray:
    """A picture as float64 in [0, 1]; uint8 is divided by 255."""
    return image / 255.0 if image.dtype == np.uint8 else np.asarray(image, np.float64)


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"pictures: want two of one shape (H, W, C), got {a.shape} and {b.shape}; see `resized`")
    return unit(a), unit(b)


def resized(image: np.ndarray, shorter: int) -> np.ndarray:
    """The picture with its shorter side at `shorter` px, never enlarged, by means of the pixels that are replaced."""
    height, width = image.shape[:2]
    scale = shorter / min(height, width)
    if scale >= 1:
        return image
    return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, data range 1, of the pixels in `where` (H, W) bool; infinite if equal."""
    error = mean_square(a, b, where)
    if not np.isfinite(error):
        return np.nan
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def mean_square(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean squared difference over the pixels that count; NaN if none does."""
    a, b = _pair(a, b)
    gap = (a - b) ** 2
    gap = gap if where is None else gap[np.asarray(where, bool)]
    return float(gap.mean()) if gap.size else np.nan


def square_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W) float32 squared difference, data range 1, the mean of the colours."""
    a, b = _pair(a, b)
    return np.asarray(np.square(a - b).mean(2), np.float32)


class Similarity:
    """Structural similarity with one picture (H, W, C), whose own moments are computed once.

    ValueError below 11 px a side.
    """

    def __init__(self, picture: np.ndarray) -> None:
        if min(picture.shape[:2]) < _WINDOW:
            raise ValueError(f"ssim: want at least {_WINDOW} px a side, got {picture.shape[:2]}")
        self._picture = unit(picture)
        self._mean = _blurred(self._picture)
        self._variance = _blurred(self._picture**2) - self._mean**2

    def __call__(self, other: np.ndarray) -> np.ndarray:
        """(H, W) similarity of each pixel's window in [-1, 1], the mean over colours; NaN where it is not whole."""
        a, b = _pair(other, self._picture)
        mean = _blurred(a)
        variance = _blurred(a * a) - mean**2
        shared = _blurred(a * b) - mean * self._mean
        likeness = (2 * mean * self._mean + _C1) * (2 * shared + _C2)
        likeness /= (mean**2 + self._mean**2 + _C1) * (variance + self._variance + _C2)
        out = np.full(a.shape[:2], np.nan)
        edge = _WINDOW // 2
        out[edge:-edge, edge:-edge] = likeness.mean(2)
        return out


def _blurred(x: np.ndarray) -> np.ndarray:
    tap = np.exp(-((np.arange(_WINDOW) - _WINDOW // 2) ** 2) / (2 * _SIGMA**2))
    edge = _WINDOW // 2
    return np.asarray(cv2.sepFilter2D(x, cv2.CV_64F, tap / tap.sum(), tap / tap.sum())[edge:-edge, edge:-edge])


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity, the mean over pixels and colours, in [-1, 1]; ValueError below 11 px or for two sizes."""
    return float(np.nanmean(Similarity(b)(a)))


def background(mask_a: np.ndarray, mask_b: np.ndarray, dilation: float = DILATION) -> np.ndarray:
    """(H, W) bool: the pixels that neither picture's person covers, with a margin; all False if few are left (`CLEAR`).

    The masks (H, W) are bool or uint8; `dilation` is the margin as a share of the shorter side.
    """
    covered = ((np.asarray(mask_a) > 0) | (np.asarray(mask_b) > 0)).astype(np.uint8)
    radius = max(round(dilation * min(covered.shape)), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    free = cv2.dilate(covered, disc) == 0
    return free if free.mean() >= CLEAR else np.zeros_like(free)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance (squared, as usual) of two sets of feature vectors (N, D) and (M, D), as Gaussians.

    With few vectors it is biased upwards: compare only at equal N and M.
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if len(a) < 2 or len(b) < 2:
        return np.nan
    return frechet_of_gaussians(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def frechet_of_gaussians(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)): means (D,), covariances (D, D)."""
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ cov_b @ root)  # similar to C_a C_b, and symmetric
    gap = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    total = gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(np.maximum(middle, 0)).sum()
    return float(max(total, 0.0))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID: unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3; may fall below 0 by chance."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        return np.nan

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    own_a, own_b = kernel(a, a), kernel(b, b)
    within = (own_a.sum() - np.trace(own_a)) / (n * (n - 1)) + (own_b.sum() - np.trace(own_b)) / (m * (m - 1))
    return float(within - 2 * kernel(a, b).mean())
