"""Average of weights over the steps of a training."""

import pytest
import torch

from rigface.model.ema import Average


def test_weight_average_follows_and_swaps_back():
    layer = torch.nn.Linear(2, 2)
    average = Average(layer, decay=0.5)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update()  # the first update has decay 2/11
    assert torch.allclose(average.weights["weight"], before + 9 / 11)
    with average.swapped():
        assert torch.allclose(layer.weight, before + 9 / 11)
    assert torch.allclose(layer.weight, before + 1)
    with pytest.raises(ValueError, match="other weights"):
        average.load({"updates": 1, "weights": {"nobody": before}})
