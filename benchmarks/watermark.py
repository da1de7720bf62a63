"""Measure the watermark: found after attacks, and found where there is none.

    python benchmarks/watermark.py FOLDER [--marked 50] [--unmarked 1000]

FOLDER has images, of different people; the larger ones are used. Those that are marked are taken at three sizes of the
shorter side. The unmarked ones are taken at 384 px, and at 256 px if there are too few so large; each takes 0.7 s of a
core. Writes benchmarks/results/watermark.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from harness import environment, write

from rigface.errors import BadImage
from rigface.image import decode, encode_jpeg
from rigface.provenance import watermark

SECRET = b"benchmark"
SIDES = (256, 384, 640)  # px


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """An (H, W, 3) image at another size."""
    return cv2.resize(
        image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    )


def cropped(image: np.ndarray) -> np.ndarray:
    """80 % of each side, off the centre."""
    height, width = image.shape[:2]
    top, left = round(0.07 * height), round(0.11 * width)
    return image[top : top + round(0.8 * height), left : left + round(0.8 * width)]


ATTACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda image: image,
    "JPEG 80": lambda image: decode(encode_jpeg(image, 80)),
    "half size": lambda image: scaled(image, 0.5),
    "half size and back": lambda image: cv2.resize(
        scaled(image, 0.5), image.shape[1::-1], interpolation=cv2.INTER_CUBIC
    ),
    "crop to 80 %": cropped,
    "crop to 80 %, JPEG 80": lambda image: decode(encode_jpeg(cropped(image), 80)),
    "shift by 3 px": lambda image: image[3:, 3:],
    "half size, JPEG 90": lambda image: decode(encode_jpeg(scaled(image, 0.5), 90)),
}


def images(folder: Path, count: int, side: int, below: float = np.inf) -> list[np.ndarray]:
    """Up to `count` images of the folder in a fixed random order, reduced to a shorter side of `side` px.

    Their own shorter side is in [side, below) px.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    chosen: list[np.ndarray] = []
    for at in np.random.default_rng(0).permutation(len(paths)):
        if len(chosen) == count:
            break
        try:
            image = decode(paths[at].read_bytes())
        except BadImage:
            continue
        if side <= min(image.shape[:2]) < below:
            chosen.append(scaled(image, side / min(image.shape[:2])))
    return chosen


def rates(folder: Path, count: int, side: int) -> dict[str, object]:
    """Share of marked images that are found after each attack."""
    found = dict.fromkeys(ATTACKS, 0)
    lowest = dict.fromkeys(ATTACKS, float("inf"))
    decibels, embed_ms = [], []
    pictures = images(folder, count, side)
    for number, image in enumerate(pictures):
        bits = int(np.random.default_rng(number).integers(2**32))
        began = perf_counter()
        marked = watermark.embed(image, bits, SECRET)
        embed_ms.append(1000 * (perf_counter() - began))
        error = float(np.mean((marked.astype(float) - image) ** 2))
        decibels.append(10 * np.log10(255**2 / error))
        for name, attack in ATTACKS.items():
            mark = watermark.read(attack(marked), SECRET)
            found[name] += mark.found
            lowest[name] = min(lowest[name], round(mark.score))
    return {
        "images": len(pictures), "found": found, "lowest_score": lowest,
        "psnr_db": round(float(np.mean(decibels)), 1), "embed_ms": round(float(np.median(embed_ms)), 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--marked", type=int, default=50)
    parser.add_argument("--unmarked", type=int, default=1000)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    result: dict[str, object] = {**environment(), "threshold": watermark.THRESHOLD}
    for side in SIDES:
        result[f"{side} px"] = rates(args.folder, args.marked, side)
        print(side, result[f"{side} px"], flush=True)
    unmarked = images(args.folder, args.unmarked, 384)
    unmarked += images(args.folder, args.unmarked - len(unmarked), 256, below=384)
    scores = [watermark.read(image, SECRET).score for image in unmarked]
    found = sum(score > watermark.THRESHOLD for score in scores)
    result["unmarked"] = {"images": len(scores), "found": found, "highest_score": round(max(scores))}
    print(result["unmarked"])
    write("watermark", result)


if __name__ == "__main__":
    main()
