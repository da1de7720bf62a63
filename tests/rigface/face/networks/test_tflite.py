"""TensorFlow Lite models as torch modules. `test_torch_landmarker.py` compares the networks' answers."""

import cv2
import numpy as np
import pytest
import skimage.data

from rigface import assets
from rigface.errors import BadCheckpoint
from rigface.face.networks import tflite
from rigface.face.networks.selfie_segmentation import SelfieSegmentation
from rigface.face.networks.tflite import TfliteNetwork


def test_unknown_operators_are_named(monkeypatch):
    for name in ("HARD_SWISH", "Convolution2DTransposeBias"):
        monkeypatch.delitem(tflite._OPERATORS, name)
    model = assets.find("selfie_segmentation", None).read_bytes()
    with pytest.raises(BadCheckpoint, match="Convolution2DTransposeBias, HARD_SWISH"):
        TfliteNetwork(model)


def test_selfie_network_answers_as_in_opencv():
    path, picture = assets.find("selfie_segmentation", None), skimage.data.astronaut()[::2, ::2].copy()
    other = cv2.dnn.readNetFromTFLite(str(path))
    other.setInput(cv2.dnn.blobFromImage(picture, 1 / 255))
    np.testing.assert_allclose(SelfieSegmentation(path)(picture), other.forward()[0, 0], atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(64)])
def test_other_bytes_are_refused(content):
    with pytest.raises(BadCheckpoint, match="no TensorFlow Lite model"):
        TfliteNetwork(content)
