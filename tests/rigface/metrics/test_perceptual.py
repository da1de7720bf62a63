"""LPIPS and Inception features with random weights in the published layout."""

import numpy as np
import pytest
import torch

from rigface.errors import MissingAsset
from rigface.metrics.perceptual import InceptionFeatures, Lpips

SIZES = (("features.0", 64, 3, 11), ("features.3", 192, 64, 5), ("features.6", 384, 192, 3),
         ("features.8", 256, 384, 3), ("features.10", 256, 256, 3))  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0)
    net, heads = {}, {}
    for k, (name, out, into, side) in enumerate(SIZES):
        net[f"{name}.weight"] = torch.randn(out, into, side, side, generator=random) / (into * side * side) ** 0.5
        net[f"{name}.bias"] = torch.zeros(out)
        heads[f"lin{k}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=random)
    torch.save(net, folder / "alexnet.pth")
    torch.save(heads, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth"


def test_lpips_is_a_distance_that_grows_with_the_damage(weights):
    lpips = Lpips(*weights)
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mild, bad = (np.clip(picture + random.normal(0, s, picture.shape), 0, 255).astype(np.uint8) for s in (5, 80))
    assert lpips(picture, picture) == 0
    assert 0 < lpips(picture, mild) < lpips(picture, bad)
    assert lpips(picture, bad) == pytest.approx(lpips(bad, picture))
    assert lpips.version.startswith("lpips-alex-")


def test_lpips_is_bounded_by_its_weights(weights):
    """Unit directions of nonnegative features are at most sqrt(2) apart, so each layer adds at most 2 max(w)."""
    heads = torch.load(weights[1], weights_only=True)
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    assert 0 < Lpips(*weights)(black, white) <= sum(2 * float(w.max()) for w in heads.values())


def test_missing_weights_are_refused_with_their_path(tmp_path):
    with pytest.raises(MissingAsset, match=r"never downloaded.*path"):
        Lpips(tmp_path / "none.pth", tmp_path / "none.pth")
    with pytest.raises(MissingAsset, match="Inception"):
        InceptionFeatures(tmp_path / "none.pt")


class Stand(torch.nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.float().mean(dim=[2, 3])


def test_features_come_in_order_whatever_the_batch(tmp_path):
    torch.jit.script(Stand()).save(str(tmp_path / "net.pt"))
    pictures = [np.full((8, 8, 3), k, np.uint8) for k in range(5)]
    got = InceptionFeatures(tmp_path / "net.pt")(pictures, batch=2)
    assert got == pytest.approx(np.repeat(np.arange(5.0)[:, None], 3, 1))
