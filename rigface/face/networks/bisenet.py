"""BiSeNet for face parsing: 19 classes per pixel.

Path: a crop of 512 px -> BiSeNet -> scores -> `parsers.BisenetParser` -> the person mask.
Source: Yu et al., "BiSeNet: Bilateral segmentation network for real-time semantic segmentation", ECCV 2018, with
ResNet-18 and without the spatial path, as in `79999_iter.pth` (trained on CelebAMask-HQ). The file's two auxiliary
heads serve training and are not read.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rigface.face.networks.weight_files import build, read_weights, without_wrapper

SIZE = 512  # px, side of the input
CLASSES = (
    *("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r"),
    *("nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat"),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class ConvBNReLU(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, before: int, after: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, 1, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if before != after or stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class ResNet18(nn.Module):
    """ResNet-18 that returns the maps of its last three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps at 1/8, 1/16 and 1/32 of the size, of 128, 256 and 512 channels."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer1(F.max_pool2d(x, 3, 2, 1))
        eighth = self.layer2(x)
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class AttentionRefinement(nn.Module):
    """Convolution whose channels are weighted by the mean of its map."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(before, after)
        self.conv_atten = nn.Conv2d(after, after, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        attention: Tensor = self.bn_atten(self.conv_atten(_mean(x))).sigmoid()
        return x * attention


class ContextPath(nn.Module):
    """ResNet-18 with its two coarsest maps refined and brought to 1/8 of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvBNReLU(128, 128)
        self.conv_head16 = ConvBNReLU(128, 128)
        self.conv_avg = ConvBNReLU(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Fine and context features, each (N, 128, H / 8, W / 8)."""
        eighth, sixteenth, last = self.resnet(x)
        context = self.arm32(last) + self.conv_avg(_mean(last))
        context = self.conv_head32(F.interpolate(context, sixteenth.shape[2:]))
        context = self.arm16(sixteenth) + context
        return eighth, self.conv_head16(F.interpolate(context, eighth.shape[2:]))


class FeatureFusion(nn.Module):
    """Fine and context features joined, and their channels weighted once more."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.convblk(torch.cat([fine, context], 1))
        attention: Tensor = self.conv2(F.relu(self.conv1(_mean(x)))).sigmoid()
        return x + x * attention


class Output(nn.Module):
    """Class scores of a map."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(before, width)
        self.conv_out = nn.Conv2d(width, len(CLASSES), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))  # type: ignore[no-any-return]


class BiSeNet(nn.Module):
    """BiSeNet for face parsing."""

    def __init__(self) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion()
        self.conv_out = Output(256, 256)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores (N, 19, H / 8, W / 8) of pictures (N, 3, H, W) RGB in [0, 1], H and W multiples of 32.

        For labels enlarge them bilinearly, with `align_corners=True`, and take the largest.
        """
        mean, std = (pictures.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return self.conv_out(self.ffm(*self.cp((pictures - mean) / std)))  # type: ignore[no-any-return]


def _mean(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


def load_bisenet(path: str | os.PathLike[str], device: str = "cpu") -> BiSeNet:
    """BiSeNet from `79999_iter.pth`.

    Raises:
        MissingAsset, UnsafeFile, BadCheckpoint: see `weight_files.read_weights` and `build`.
    """
    weights = without_wrapper(read_weights(path))
    return build(BiSeNet, weights, path, device, unused=("conv_out16.", "conv_out32."))
