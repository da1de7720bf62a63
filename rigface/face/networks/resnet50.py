"""ResNet-50 without its classifier, with the parameter names of torchvision.

Path: pictures -> ResNet50 -> 2,048 numbers -> the heads in `deca.py`, `emoca.py`, `basel.py`.
Source: He et al., "Deep residual learning for image recognition", CVPR 2016; the stride is in the 3 x 3 convolution
("ResNet v1.5"), as in the files of all of these models.
"""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 2048  # numbers per picture
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the first


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution around a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if before != after or stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class ResNet50(nn.Module):
    """ResNet-50 up to its global average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for stage, (width, blocks, stride) in enumerate(_STAGES, start=1):
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(before, width, 1 if block else stride))
                before = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*layers))

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 2048) float32 of pictures (N, 3, H, W), normalised as the model at hand wants; computed in the type of
        the weights.
        """
        x = pictures.to(self.conv1.weight.dtype)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.float().mean((2, 3))
