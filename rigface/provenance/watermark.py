"""An invisible watermark of 32 bits that survives JPEG, scaling, cropping and shifting.

Path: edited image, or each frame of an edited video -> `embed` -> encode; any image -> `read`, any video ->
`read_video`.
Source: spread spectrum (Cox et al., "Secure spread spectrum watermarking for multimedia", IEEE TIP 1997) in a periodic
tile (Kutter, "Watermarking resistant to translation, rotation and scaling", SPIE 1998); blind detection by correlation.

* The tile repeats: all periods are added up, so a shift or a crop moves the sum in a circle and loses little of it.
* The tile's size follows the image's shorter side: scaling the whole image changes nothing. A crop changes the ratio of
  the two; `read` searches it, `CROPS` in steps of one percent.
* The sign of the tile follows the image: it is multiplied by the local contrast of the content itself. The difference
  of a marked and an unmarked image, added to another image, has the wrong sign in half of all places and is not found.
  A mark is a hint that leads to the audit log. Only a valid manifest says that an image was made here.
* The band of the tile is what scaling to one half and JPEG leave of an image. It is stronger in textured places.

Limits: not found after rotation, rarely in images below about 200 px, never below MIN_READ. `benchmarks/watermark.py`
measures the rates; docs/service.md names them.

In a video each frame has the same mark, and what is correlated is added up over the frames.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import cv2
import numpy as np

BITS = 32
TILE = 128  # px of a period at the nominal size
NOMINAL = 512  # px of the shorter side at the nominal size
MIN_SIDE = 384  # px; in smaller images the tile stays as large as at this size, or JPEG would remove its band
BAND = (0.04, 0.20)  # cycles per px at the nominal size
CONTENT = (5.0, 13.0)  # px at the nominal size; the content's contrast is the difference of these two Gaussians
MIN_READ, MAX_ASPECT = 96, 4  # px of the shorter side; longer side by shorter. What is beyond is not looked at
SOFT = 3.0  # grey levels; a contrast below it has no sure sign
TEXTURE = 9  # px at the nominal size; a window of the local contrast that hides the mark
MIN_AMPLITUDE, MAX_AMPLITUDE, PER_TEXTURE = 1.0, 6.0, 0.13  # grey levels; the latter per grey level of texture
CROPS = tuple(round(float(crop), 4) for crop in np.exp(np.arange(-1.05, 0.06, 0.01)))  # shorter side by NOMINAL
FRAMES = (1, 16, 64)  # frames of a video after which their sum is read
THRESHOLD = 130.0  # of the sum of 32 squared scores, best of all offsets and crops; chance stays below 105
CERTAIN = 200.0  # no other crop is looked at


@dataclass(frozen=True)
class Mark:
    """A watermark as read."""

    found: bool  # the image has one
    bits: int  # 32 of them
    score: float  # sum of squared scores of the bits; at most about 105 by chance
    min_bit: float = 0.0  # score of the least sure bit, in standard deviations


NO_MARK = Mark(False, 0, 0.0)


@lru_cache(maxsize=4)
def _tiles(secret: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(32, TILE, TILE) float32 of unit variance, one tile a bit, and their conjugate spectra."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(b"tiles" + secret).digest()[:16], "little"))
    height, width = (np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE)[None])
    radius = np.hypot(height, width)
    inside = (radius >= BAND[0]) & (radius <= BAND[1])
    tiles = np.fft.ifft2(np.fft.fft2(random.standard_normal((BITS, TILE, TILE))) * inside).real
    tiles /= np.sqrt((tiles**2).mean((1, 2), keepdims=True))
    return tiles.astype(np.float32), np.conj(np.fft.rfft2(tiles)).astype(np.complex64)


@lru_cache(maxsize=1)
def _radius() -> np.ndarray:
    """(TILE, TILE // 2 + 1) frequency of each coefficient, cycles per px."""
    return np.asarray(np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]))


def _brightness(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 of an (H, W, 3) uint8 image."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _readable(image: np.ndarray) -> np.ndarray | None:
    """Brightness of the part that is read: at most MAX_ASPECT times as long as wide; None: too small for a mark."""
    short = min(image.shape[:2])
    return None if short < MIN_READ else _brightness(image[: MAX_ASPECT * short, : MAX_ASPECT * short])


def _scaled(brightness: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(1, round(side * scale)) for side in brightness.shape)
    return cv2.resize(brightness, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _contrast(brightness: np.ndarray) -> np.ndarray:
    """(H, W) in (-1, 1): the sign of the content's contrast, soft around zero. At the nominal size."""
    half = _scaled(brightness, 0.5)
    near, far = (cv2.GaussianBlur(half, (0, 0), sigma / 2) for sigma in CONTENT)
    difference = near - far
    sign = difference / np.sqrt(difference * difference + SOFT * SOFT)
    return cv2.resize(sign, brightness.shape[::-1], interpolation=cv2.INTER_LINEAR)


def embed(image: np.ndarray, bits: int, secret: bytes) -> np.ndarray:
    """The image (H, W, 3) uint8 with the mark `bits`, in [0, 2^32)."""
    height, width = image.shape[:2]
    nominal = _scaled(_brightness(image), NOMINAL / max(min(height, width), MIN_SIDE))
    mean = cv2.blur(nominal, (TEXTURE, TEXTURE))
    texture = np.sqrt(np.maximum(cv2.blur(nominal * nominal, (TEXTURE, TEXTURE)) - mean * mean, 0))
    amplitude = np.clip(PER_TEXTURE * texture, MIN_AMPLITUDE, MAX_AMPLITUDE)
    signs = np.array([1.0 if bits >> i & 1 else -1.0 for i in range(BITS)], np.float32)
    tile = np.tensordot(signs, _tiles(secret)[0], 1) / np.float32(np.sqrt(BITS))
    rows, columns = (-(-side // TILE) for side in nominal.shape)
    pattern = np.tile(tile, (rows, columns))[: nominal.shape[0], : nominal.shape[1]]
    change = amplitude * _contrast(nominal) * pattern
    change = np.rint(cv2.resize(change, (width, height), interpolation=cv2.INTER_CUBIC)).astype(np.int16)
    marked: np.ndarray = cv2.add(image, cv2.merge([change] * 3), dtype=cv2.CV_8U)
    return marked


def read(image: np.ndarray, secret: bytes) -> Mark:
    """The mark of an image (H, W, 3) uint8, or that it has none."""
    brightness = _readable(image)
    return NO_MARK if brightness is None else _best(_sums(brightness), secret)


def read_video(images: Iterable[np.ndarray], secret: bytes) -> Mark:
    """The mark of a video or of a piece of one, from at most 64 of its images (H, W, 3) uint8, in order."""
    best, first, whole, count = NO_MARK, None, np.zeros((2, TILE, TILE), np.float32), 0
    for image in islice(images, FRAMES[-1]):
        brightness = _readable(image)
        if brightness is None:
            continue
        if first is None or brightness.shape != first.shape:  # the first frame, or a video that changes its size
            first, whole, count = brightness, np.zeros_like(whole), 0
        whole += np.stack([_sum(brightness, crop) for crop in _uncropped(first)])
        count += 1
        if count in FRAMES:
            best = max([best, *(_score(summed, secret) for summed in whole)], key=_by_score)
            if best.score > CERTAIN:
                return best
    if first is None:
        return NO_MARK
    best = max([best, *(_score(summed, secret) for summed in whole)], key=_by_score)
    return best if best.found else max(best, _best(_sums(first), secret), key=_by_score)


def _by_score(mark: Mark) -> float:
    return mark.score


def _uncropped(brightness: np.ndarray) -> tuple[float, float]:
    """Shorter side by NOMINAL of an uncropped image: at the size it was marked at, and if it was scaled down since."""
    return min(1.0, min(brightness.shape) / MIN_SIDE), 1.0


def _sums(brightness: np.ndarray) -> Iterator[np.ndarray]:
    """The sums of `_sum` for each crop that may have been made, the likely ones first."""
    for crop in dict.fromkeys((*_uncropped(brightness), *CROPS)):
        yield _sum(brightness, crop)


def _sum(brightness: np.ndarray, crop: float) -> np.ndarray:
    """(TILE, TILE): all periods added up, times the content's sign; `crop` is the shorter side by NOMINAL."""
    nominal = _scaled(brightness, NOMINAL * crop / min(brightness.shape))
    detail = cv2.GaussianBlur(nominal, (0, 0), 0.7) - cv2.GaussianBlur(nominal, (0, 0), 4.0)
    detail /= np.sqrt(cv2.blur(detail * detail, (17, 17)) + 1)
    signed = np.clip(detail, -2.5, 2.5) * _contrast(nominal)
    rows, columns = (-(-side // TILE) for side in nominal.shape)
    periods = np.zeros((rows * TILE, columns * TILE), np.float32)
    periods[: nominal.shape[0], : nominal.shape[1]] = signed
    return np.asarray(periods.reshape(rows, TILE, columns, TILE).sum((0, 2)))


def _best(sums: Iterable[np.ndarray], secret: bytes) -> Mark:
    best = NO_MARK
    for summed in sums:
        best = max(best, _score(summed, secret), key=_by_score)
        if best.score > CERTAIN:
            break
    return best


def _score(summed: np.ndarray, secret: bytes) -> Mark:
    """The mark at the offset where the bits are surest."""
    spectrum = np.fft.rfft2(summed)
    ring = np.minimum((_radius() * TILE).astype(int), TILE // 2).ravel()
    power = np.bincount(ring, np.abs(spectrum).ravel() ** 2) / np.maximum(np.bincount(ring), 1)
    inside = (_radius() >= BAND[0]) & (_radius() <= BAND[1])
    white = spectrum * inside / np.sqrt(power[ring].reshape(spectrum.shape) + 1e-9)
    matches = np.fft.irfft2(white[None].astype(np.complex64) * _tiles(secret)[1], s=(TILE, TILE))
    scores = matches / (matches.std((1, 2), keepdims=True) + 1e-9)
    total = (scores * scores).sum(0)
    at = np.unravel_index(total.argmax(), total.shape)
    bit_scores = scores[:, at[0], at[1]]
    bits = sum(1 << i for i in range(BITS) if bit_scores[i] > 0)
    score = float(total[at])
    return Mark(score > THRESHOLD, bits, score, float(np.abs(bit_scores).min()))
