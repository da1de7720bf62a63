"""BiSeNet against its authors' scores and labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rigface.face.networks.bisenet import load_bisenet
from tests.rigface.face.official_figures import as_input, loaded


@pytest.mark.slow
def test_scores_and_labels_are_those_of_the_authors_code(figures, weights, tmp_path):
    figure = figures("bisenet")
    network = loaded(load_bisenet, weights("bisenet.bisenet"), tmp_path / "79999_iter.pth")
    with torch.inference_mode():
        scores = network(as_input(figure["picture"][None]))
        full = F.interpolate(scores, (512, 512), mode="bilinear", align_corners=True)[0].numpy()
    assert np.abs(full[:, 5::16, 5::16] - figure["logits_stride16"]).max() < 1e-3
    assert np.abs(full[:, 240:256, 100:116] - figure["logits_patch"]).max() < 1e-3
    clear = figure["margin_stride4"] > 1e-3
    assert clear.mean() > 0.99
    assert (full.argmax(0)[::4, ::4] == figure["labels"][::4, ::4])[clear].all()
