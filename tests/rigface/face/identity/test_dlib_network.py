"""dlib's network in torch beside dlib's own code."""

import cv2
import dlib
import numpy as np
import pytest
import torch

from rigface import assets
from rigface.errors import BadCheckpoint
from rigface.face.identity.dlib_network import _sum, load_network


def test_vectors_are_dlibs_own_up_to_rounding():
    path = assets.find("dlib_identity")
    noise = np.random.default_rng(0).integers(0, 255, (2, 150, 150, 3), dtype=np.uint8)
    chips = [cv2.GaussianBlur(chip, (0, 0), spread) for chip, spread in zip(noise, (2, 8))]
    wanted = dlib.face_recognition_model_v1(str(path)).compute_face_descriptor(chips)
    assert load_network(path).embed(chips) == pytest.approx(np.array(wanted), abs=1e-5)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "x.dat").write_bytes(b"shape_predictor")
    with pytest.raises(BadCheckpoint, match="not dlib's face recognition network"):
        load_network(tmp_path / "x.dat")


def test_sum_fills_missing_channels_and_rows_with_zeros():
    total = _sum(torch.ones(1, 1, 3, 2), torch.ones(1, 2, 2, 2))
    assert total.shape == (1, 2, 3, 2)
    assert total.sum() == 6 + 8
