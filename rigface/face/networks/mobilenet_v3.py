"""MobileNetV3 in its "minimal" forms, with the parameter names of timm's `tf_mobilenetv3_*_minimal_100`.

Path: crops -> MobileNetV3 -> features -> the heads of `smirk.py`.
Source: Howard et al., "Searching for MobileNetV3", ICCV 2019. Minimal: 3 x 3 depthwise convolutions, ReLU everywhere,
no squeeze and excitation. TensorFlow's padding: where the stride is 2, an even size is padded on the right and below.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stages = tuple[tuple[tuple[int, int, int], ...], ...]  # blocks of a stage: inner width, outer width, stride

STEM = 16
LARGE: Stages = (
    ((64, 24, 2), (72, 24, 1)),
    ((72, 40, 2), (120, 40, 1), (120, 40, 1)),
    ((240, 80, 2), (200, 80, 1), (184, 80, 1), (184, 80, 1)),
    ((480, 112, 1), (672, 112, 1)),
    ((672, 160, 2), (960, 160, 1), (960, 160, 1)),
)
SMALL: Stages = (
    ((72, 24, 2), (88, 24, 1)),
    ((96, 40, 2), (240, 40, 1), (240, 40, 1)),
    ((120, 48, 1), (144, 48, 1)),
    ((288, 96, 2), (576, 96, 1), (576, 96, 1)),
)


class Convolution(nn.Conv2d):
    """Convolution without bias that keeps the size, or halves it, with TensorFlow's padding."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        padding = 0 if stride > 1 else kernel // 2
        super().__init__(before, after, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            height, width = x.shape[2:]
            x = F.pad(x, (width % 2, 1, height % 2, 1))
        return super().forward(x)


class Separable(nn.Module):
    """Depthwise and 1 x 1 convolution: the first block."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = Convolution(width, width, 3, stride, groups=width)
        self.bn1 = _norm(width)
        self.conv_pw = Convolution(width, width)
        self.bn2 = _norm(width)
        self._shortcut = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv_pw(F.relu(self.bn1(self.conv_dw(x)))))
        return x + y if self._shortcut else y  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1 x 1 convolution to a wider map, depthwise convolution, and back."""

    def __init__(self, before: int, inner: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv_pw = Convolution(before, inner)
        self.bn1 = _norm(inner)
        self.conv_dw = Convolution(inner, inner, 3, stride, groups=inner)
        self.bn2 = _norm(inner)
        self.conv_pwl = Convolution(inner, after)
        self.bn3 = _norm(after)
        self._shortcut = before == after and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv_pw(x)), inplace=True)
        y = F.relu(self.bn2(self.conv_dw(y)), inplace=True)
        y = self.bn3(self.conv_pwl(y))
        return x + y if self._shortcut else y  # type: ignore[no-any-return]


class Last(nn.Module):
    """1 x 1 convolution to the features."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = Convolution(before, after)
        self.bn1 = _norm(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv(x)), inplace=True)


class MobileNetV3(nn.Module):
    """MobileNetV3 up to its global average."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.conv_stem = Convolution(3, STEM, 3, 2)
        self.bn1 = _norm(STEM)
        blocks: list[nn.Module] = [nn.Sequential(Separable(STEM, 1 if stages is LARGE else 2))]
        before = STEM
        for stage in stages:
            layers = []
            for inner, after, stride in stage:
                layers.append(InvertedResidual(before, inner, after, stride))
                before = after
            blocks.append(nn.Sequential(*layers))
        self.width = 6 * before
        self.blocks = nn.Sequential(*blocks, nn.Sequential(Last(before, self.width)))

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, width) of pictures (N, 3, H, W)."""
        x = self.blocks(F.relu(self.bn1(self.conv_stem(pictures)), inplace=True))
        return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)
