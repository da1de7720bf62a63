"""MediaPipe's selfie segmentation: the person against everything else, with hair, hats and clothes.

Path: crop -> SelfieSegmentation -> probability of the person -> `parsers.SelfieParser`.
Source: MediaPipe Selfie Segmentation, general model (Google, 2021; a MobileNetV3 with an encoder and a decoder, 0.11 M
weights in float16), read by OpenCV. Its answer is nearly binary, and as fine as its input of 256 px.
"""

import threading
from pathlib import Path

import cv2
import numpy as np

from rigface import assets
from rigface.image import resized

SIZE = 256


class SelfieSegmentation:
    """The network. Threads take turns, since OpenCV's networks have a state.

    MissingAsset without its file: `folder` is the file, or an assets folder; None looks in `RIGFACE_ASSETS`, then in
    this package.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        path = assets.find("selfie_segmentation", folder)
        self.version = assets.fingerprint(path)
        self._network, self._turn = cv2.dnn.readNetFromTFLite(str(path)), threading.Lock()

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """(256, 256) float32 in [0, 1], the probability of a person, of a square picture (H, H, 3) uint8 RGB."""
        blob = cv2.dnn.blobFromImage(resized(crop, SIZE), 1 / 255)
        with self._turn:
            self._network.setInput(blob)
            return np.array(self._network.forward()[0, 0])
