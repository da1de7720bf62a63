"""TensorFlow Lite models as torch modules. `test_torch_landmarker.py` compares the networks' answers."""

import pytest

from rigface import assets
from rigface.errors import BadCheckpoint
from rigface.face.networks.tflite import TfliteNetwork


def test_unknown_operators_are_named():
    model = assets.find("selfie_segmentation", None).read_bytes()
    with pytest.raises(BadCheckpoint, match=r"HARD_SWISH.*RESIZE_BILINEAR"):
        TfliteNetwork(model)


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(64)])
def test_other_bytes_are_refused(content):
    with pytest.raises(BadCheckpoint, match="no TensorFlow Lite model"):
        TfliteNetwork(content)
