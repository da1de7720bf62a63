"""MediaPipe's selfie segmentation: the person against everything else, with hair, hats and clothes.

Path: crop -> SelfieSegmentation -> probability of the person -> `parsers.SelfieParser`.
Source: MediaPipe Selfie Segmentation, general model (Google, 2021; a MobileNetV3 with an encoder and a decoder, 0.11 M
weights in float16), run by torch: in 0.6 of the time of OpenCV, with the same answer to 1e-4. It is nearly binary, and
as fine as its input of 256 px.
"""

from pathlib import Path

import numpy as np
import torch

from rigface import assets
from rigface.face.networks.tflite import TfliteNetwork
from rigface.image import resized

SIZE = 256


class SelfieSegmentation:
    """The network, for many threads.

    MissingAsset without its file: `folder` is the file, or an assets folder; None looks in `RIGFACE_ASSETS`, then in
    this package.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        path = assets.find("selfie_segmentation", folder)
        self.version = assets.fingerprint(path)
        self._network = TfliteNetwork(path.read_bytes()).eval()

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """(256, 256) float32 in [0, 1], the probability of a person, of a square picture (H, H, 3) uint8 RGB."""
        with torch.inference_mode():
            batch = torch.from_numpy(resized(crop, SIZE))[None].float() / 255
            return np.asarray(self._network(batch)[0][0, ..., 0].numpy())
