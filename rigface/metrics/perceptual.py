"""Distances by third-party networks: LPIPS, and the features of FID. Weights are given by path and never downloaded.

Path: weights on this machine -> `Lpips`, `InceptionFeatures` -> `measure_edits` and `image.frechet`. Without weights
the card leaves these columns out, with a note. Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features
as a Perceptual Metric", CVPR 2018, equation 1, its AlexNet version 0.1; Heusel et al. 2017 for FID. Written from the
paper and the layout of the published weights.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rigface.assets import fingerprint
from rigface.errors import MissingAsset
from rigface.image import to_tensor

# AlexNet's convolutions as torchvision names them: (name, stride, padding, pooled before).
_LAYERS = (
    ("features.0", 4, 2, False),
    ("features.3", 1, 2, True),
    ("features.6", 1, 1, True),
    ("features.8", 1, 1, False),
    ("features.10", 1, 1, False),
)
# Normalisation of the linear weights' training, for a picture in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def _existing(path: str | Path, what: str) -> Path:
    if not Path(path).is_file():
        raise MissingAsset(f"{what} is not at {path}; it is never downloaded: give the path of your copy")
    return Path(path)


def _state(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)  # refuses all but tensors
    return state


class Lpips:
    """LPIPS 0.1 on AlexNet; MissingAsset if a file is not there.

    `alexnet` is torchvision's `alexnet-owt-*.pth`, `linear` the lpips package's `alex.pth`, its five linear layers.
    """

    def __init__(self, alexnet: str | Path, linear: str | Path) -> None:
        backbone, heads = _existing(alexnet, "AlexNet"), _existing(linear, "LPIPS's linear layers")
        self.version = f"lpips-alex-{fingerprint(backbone)}-{fingerprint(heads)}"
        weights, shares = _state(backbone), _state(heads)
        self._convolutions = [(weights[f"{n}.weight"].float(), weights[f"{n}.bias"].float()) for n, *_ in _LAYERS]
        self._shares = [shares[f"lin{k}.model.1.weight"].float() for k in range(len(_LAYERS))]

    @torch.inference_mode()
    def __call__(self, a: np.ndarray, b: np.ndarray) -> float:
        """The distance of two pictures (H, W, 3) uint8 of one size; 0 for equal ones. At least 64 px a side."""
        total = 0.0
        for x, y, share in zip(self._features(a), self._features(b), self._shares):
            total += float(F.conv2d((_direction(x) - _direction(y)).square(), share).mean())
        return total

    def _features(self, image: np.ndarray) -> list[Tensor]:
        x = to_tensor(image[None]) * 2 - 1
        x = (x - x.new_tensor(_SHIFT)[:, None, None]) / x.new_tensor(_SCALE)[:, None, None]
        out = []
        for (_, stride, padding, pooled), (weight, bias) in zip(_LAYERS, self._convolutions):
            x = F.max_pool2d(x, 3, 2) if pooled else x
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            out.append(x)
        return out


def _direction(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


class InceptionFeatures:
    """Pictures as the features that FID and KID compare, from a TorchScript file such as `inception-2015-12-05.pt`.

    It takes (N, 3, H, W) uint8 and `return_features=True`, and gives (N, D). TorchScript is a program: use only a file
    you trust. MissingAsset if it is not there.
    """

    def __init__(self, path: str | Path) -> None:
        file = _existing(path, "the Inception network")
        self.version = f"inception-{fingerprint(file)}"
        load: Callable[..., torch.jit.ScriptModule] = torch.jit.load
        self._network = load(file, map_location="cpu").eval()

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray], batch: int = 16) -> np.ndarray:
        """(N, D) float64 of N pictures (H, W, 3) uint8."""
        out = []
        for start in range(0, len(pictures), batch):
            part = np.stack([np.moveaxis(p, -1, 0) for p in pictures[start : start + batch]])
            out.append(self._network(torch.from_numpy(part), return_features=True).double().numpy())
        return np.concatenate(out)
